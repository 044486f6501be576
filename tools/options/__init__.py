"""Options that several commands share, or that are too many for a command's own file.

May import operators and pipeline, nothing else of tools.
"""
