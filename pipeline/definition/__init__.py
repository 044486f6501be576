"""What a graph file may say: YAML with line numbers, the options of operators, the rules for fragments.

Imports `errors`, `node` and `operator`.
"""
