"""CUDA kernels of our own, each with the same work in PyTorch's operations. Imports `device` and `images`."""
