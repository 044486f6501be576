"""Graph files: find and check them, add sinks to them, run them, and check the weights of their models.

Imports `operators.REGISTRY`, `engines` and `pipeline`.
"""
