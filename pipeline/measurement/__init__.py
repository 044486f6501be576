"""What a run counts of itself. Imports `pipeline.packet` only."""
