"""How good found poses are, measured against annotations."""
