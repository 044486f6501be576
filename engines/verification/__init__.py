"""Compare a model, as it runs on this machine, with its reference, and measure it.

Imports `backends`, `comparison`, `contracts` and `loading`.
"""
