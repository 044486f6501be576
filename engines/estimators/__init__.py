"""Detectors and pose estimators: images in, boxes or keypoints out.

Imports `backends`, `codecs`, `contracts`, `device`, `images` and `kernels`.
"""
