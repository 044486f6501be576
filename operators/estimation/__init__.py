"""What the operators that run models share. Imports `engines` and `pipeline`."""
