"""Load a model: choose its backend, open it, hold it against its contract."""
