"""`posestream graph`: list, draw and check graphs. May import operators, pipeline and `tools.options`."""
