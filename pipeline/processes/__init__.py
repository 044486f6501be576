"""A run in several processes. Imports the rest of `pipeline`."""
