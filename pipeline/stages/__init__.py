"""Stages: an operator at work in its threads, its batches, its errors, and the order of its results.

Imports `edges`, `measurement`, and of the files beside it `errors`, `node`, `operator` and `packet`.
"""
