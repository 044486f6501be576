"""What a run counts of itself, and the snapshot that all views draw from."""
