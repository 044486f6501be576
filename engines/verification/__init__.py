"""Hold an engine against the FP32 reference, and measure it."""
