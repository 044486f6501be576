"""Compile ONNX for one GPU, with TensorRT or TensorRT for RTX, and run the compiled plans.

Imports `assets`, `backends`, `comparison`, `contracts`, `conversion` and `device`.
"""
