"""`posestream kafka`: show the messages of a topic, and how far its readers are.

May import operators and pipeline, nothing else of tools.
"""
