"""Frames in a GPU's memory, its streams, copies and CUDA graphs. Imports no other room but `images`."""
