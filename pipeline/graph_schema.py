"""The JSON Schema of graph files, for editors."""

from __future__ import annotations

from typing import Any

from pipeline.definition.options import options_model
from pipeline.graph import GraphSpec, NodeSpec, Registry, resolve


def graph_schema(registry: Registry) -> dict[str, Any]:
    """A JSON Schema (2020-12) of graph files, with type and description of every operator's options."""
    outer = GraphSpec.model_json_schema()
    node = NodeSpec.model_json_schema()
    definitions = node.pop("$defs", {})
    nodes = []
    for name in sorted(registry):
        operator = resolve(registry[name])
        options = options_model(operator).model_json_schema()
        definitions |= options.pop("$defs", {})
        nodes.append(
            {
                "title": name,
                "description": (operator.__doc__ or "").strip().split("\n")[0],
                "type": "object",
                "properties": {
                    **node["properties"],
                    **options.get("properties", {}),
                    "op": {"const": name},
                },
                "required": ["op", *options.get("required", [])],
                "additionalProperties": False,
            }
        )
    own = {
        "title": "your own operator: module:Class",
        "type": "object",
        "properties": {**node["properties"], "op": {"type": "string", "pattern": ":"}},
        "required": ["op"],
    }
    properties = outer["properties"]
    properties["graph"]["additionalProperties"] = {"anyOf": [*nodes, own]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "posestream graph",
        "type": "object",
        "properties": properties,
        "required": outer["required"],
        "additionalProperties": False,
        "$defs": definitions,
    }
