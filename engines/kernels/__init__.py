"""CUDA kernels: their sources, the code that compiles and launches them, and PyTorch's version of the crops.

Imports `device` and `images`.
"""
