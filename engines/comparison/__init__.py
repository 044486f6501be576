"""Run two engines on the same inputs and compare their outputs. Imports `estimators`, `backends` and below."""
