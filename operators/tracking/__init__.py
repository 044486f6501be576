"""What `track` needs: motion models and the assignment of detections. Imports NumPy and SciPy only."""
