"""Compile ONNX for one GPU, with TensorRT or TensorRT for RTX. May import `comparison` and `conversion`."""
