"""The queues between stages, and joins. Imports `pipeline.packet` and `measurement`."""
