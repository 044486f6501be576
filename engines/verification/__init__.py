"""Compare a model, as it runs on this machine, with its reference, and measure it. May import `loading`."""
