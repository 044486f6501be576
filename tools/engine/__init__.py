"""`posestream engine`: a sub-command a file."""
