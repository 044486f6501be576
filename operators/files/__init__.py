"""What the sinks that write files share. Imports `engines` and `pipeline`."""
