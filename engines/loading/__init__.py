"""Choose what runs a model, open it, and check it against its contract.

Imports `assets`, `backends`, `contracts`, `device`, `kernels` and `tensorrt`.
"""
