"""`posestream evaluate`: measure poses against annotated images."""
