"""The libraries that run a model, one file each, behind the interface `base.Engine`.

Imports `architectures`, `contracts` and `device`.
"""
