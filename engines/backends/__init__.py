"""What runs a model: one file a backend, all behind `base.Engine`."""
