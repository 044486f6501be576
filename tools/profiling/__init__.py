"""Take, judge and show a profile of a run.

Imports `pipeline`, `operators`, `engines`, and the command `run` beside it.
"""
