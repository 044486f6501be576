"""Graph files: their YAML, their options, their schema. Imports `graph`, `node`, `operator` and `errors`."""
