"""Cameras: connecting, reconnecting, their clocks and addresses. The operator that reads them is `decode`."""
