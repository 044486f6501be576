"""Graph files: their YAML, their options, their schema. Imports `pipeline.errors` and `pipeline.operator`."""
