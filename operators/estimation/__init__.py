"""What the operators that run models share. Imports `operators.tracking`, `engines` and `pipeline`."""
