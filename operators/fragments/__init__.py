"""Run one fragment of a graph in a process of its own, joined to the others by topics. Imports `kafka`."""
