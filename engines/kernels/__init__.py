"""CUDA kernels: their sources, how they are compiled and launched, and what computes the same on the CPU.

Imports `device`, `images` and `contracts`.
"""
