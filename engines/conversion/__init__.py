"""Turn weights into files that run: import, export, INT8.

Imports `architectures`, `assets`, `backends`, `comparison`, `contracts` and `images`.
"""
