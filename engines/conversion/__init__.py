"""Turn weights into files that run: import, export, INT8."""
