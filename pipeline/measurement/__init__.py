"""What a run counts, its closed sum, and the snapshot for all views. Imports `packet` and `operator`."""
