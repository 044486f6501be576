"""`posestream graph`: list, draw and check graphs."""
