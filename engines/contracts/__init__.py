"""Contracts: the description of a model and its skeleton, and how both are read. Ground floor."""
