"""Images on the way into a model: geometry, colour planes, boxes, regions. Imports no other room."""
