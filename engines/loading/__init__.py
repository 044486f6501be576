"""Choose what runs a model, open it, check it against its contract. May import `tensorrt` and `backends`."""
