"""`posestream evaluate`: measure poses against annotated images.

May import operators, engines and pipeline, nothing else of tools.
"""
