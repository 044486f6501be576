"""`posestream kafka`: look into topics."""
