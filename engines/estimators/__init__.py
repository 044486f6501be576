"""Detectors and pose estimators: images in, boxes or keypoints out. Imports `backends` and below."""
