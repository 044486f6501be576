from __future__ import annotations

import json

from typer.testing import CliRunner

from tools.cli import app


def printed(*args: str) -> str:
    result = CliRunner().invoke(app, ["graph", *args], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_graph_commands():
    assert "human-lite" in printed("list")
    shown = printed("show", "human-lite")
    places = [shown.index(f"\n  {name}") for name in ("decode", "detect", "track", "pose")]
    assert places == sorted(places)
    assert "track --> pose" in printed("show", "human-lite", "--mermaid")
    assert "human-lite is a valid graph" in printed("validate", "human-lite")
    schema = json.loads(printed("schema"))
    assert "pose" in {n["title"] for n in schema["properties"]["graph"]["additionalProperties"]["anyOf"]}
