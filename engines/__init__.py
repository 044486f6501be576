"""Runs models: contracts, assets, backends. Imports only itself and `pipeline.errors`; knows no graph."""
