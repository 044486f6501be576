"""Run two engines on the same inputs and compare the outputs.

Imports `assets`, `backends`, `codecs`, `contracts`, `estimators` and `images`.
"""
