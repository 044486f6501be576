"""Moves packets: graphs, stages, edges, batches, metrics. Knows nothing of pose or of models."""
