"""How the outputs of a model family are read: pure functions on arrays, one file a family."""
