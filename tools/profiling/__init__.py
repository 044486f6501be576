"""How a profile is taken, judged and shown."""
