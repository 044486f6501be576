"""Take, judge and show a profile of a run.

May import operators, engines, pipeline and `tools.views`.
"""
