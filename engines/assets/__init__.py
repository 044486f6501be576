"""Weights and clips on this machine: fetched, verified, found again. Imports `contracts`."""
