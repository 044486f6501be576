"""`posestream engine`: export, compile, quantise, verify and measure models, and manage what was made.

May import operators and engines, nothing else of tools.
"""
