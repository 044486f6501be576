"""Turn weights into files that run: import, export, INT8. May import `comparison` and `architectures`."""
