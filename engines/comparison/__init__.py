"""Run two engines on the same inputs and compare the outputs. May import `estimators` and `backends`."""
