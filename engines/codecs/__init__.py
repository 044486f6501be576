"""How model outputs are read: one file a family, see `registry`. Imports `device`, `images`, `kernels`."""
