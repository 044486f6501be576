"""Images on the way into a model: geometry, crops, colours, boxes. Imports `device`."""
