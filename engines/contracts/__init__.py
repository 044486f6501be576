"""Contracts: the descriptions of models and skeletons, and how to read them. Imports `codecs`, `images`."""
