"""Cameras: connecting again and again, their clocks (for `decode`), and matching frames of several (`sync`).

Imports `operators.decoding`, `engines` and `pipeline`.
"""
