"""Decode video files and images, on the processor or on NVDEC. Imports `engines` and `pipeline`."""
