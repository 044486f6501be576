"""A live run as a service: the control API, Prometheus metrics, and `posestream top`, which reads the API.

May import operators, pipeline, `tools.options`, `tools.views`, and `tools.graph`, which draws the graph.
"""
