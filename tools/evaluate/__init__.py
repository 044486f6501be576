"""`posestream evaluate`: poses against annotated images."""
