"""A package, so that an installed package of this name is not found instead."""
