"""Tracking: motion models, the assignment of detections, rounds of streams. Imports NumPy and SciPy only."""
