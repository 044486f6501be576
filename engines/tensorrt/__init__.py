"""Compile ONNX for one GPU, with TensorRT or TensorRT for RTX; imported only where one of them is used."""
