"""Frames, crops and results that stay in the memory of a GPU."""
