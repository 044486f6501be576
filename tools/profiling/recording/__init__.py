"""Record what a profiled run does (`recorder`), add it up (`recorded`), and write it as a trace (`trace`).

May import engines and pipeline, nothing else of tools.
"""
