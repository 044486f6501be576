"""Moves packets: graphs, stages, edges, batches, metrics. Imports only itself; knows no pose and no model."""
