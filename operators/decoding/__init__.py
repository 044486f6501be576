"""Decoding of videos and images, on the processor or on NVDEC, and the addresses of sources.

Imports `engines` and `pipeline`.
"""
