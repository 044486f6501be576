"""A live run as a service: the control API, Prometheus metrics, and `posestream top`, which reads the API.

Imports `pipeline`, `operators` and the files beside this folder.
"""
