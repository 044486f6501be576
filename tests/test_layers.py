"""Imports point one way: tools → operators → {pipeline, engines}; neither files nor folders import in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "pipeline": {"pipeline"},
    "engines": {"engines"},
    "operators": {"operators", "pipeline", "engines"},
    "tools": {"tools", "operators", "pipeline", "engines", "posestream"},
}
# The base class of all errors: the one thing that engines take from the pipeline.
EXCEPTION = Path("engines/errors.py"), Path("pipeline/errors.py")
# Imported inside functions, where needed: the command starts at once, and runs without the extras.
HEAVY = {"torch", "tensorrt", "tensorrt_rtx", "cuda", "pynvml", "ultralytics", "onnx", "pyarrow", "kafka"}

FILES = sorted(path.relative_to(ROOT) for layer in MAY_IMPORT for path in (ROOT / layer).rglob("*.py"))
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
Graph = Mapping[str, set[str]]


def modules(path: Path) -> Iterator[str]:
    """All modules that a file imports, inside functions, too."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def layers(path: Path) -> set[str]:
    """The layers that a file imports."""
    own = {name.partition(".")[0] for name in modules(path)}
    return own & (set(MAY_IMPORT) | {"posestream", "tests", "benchmarks"})


def room(path: Path) -> str:
    """The folder right below the layer; a file that lies in none is a room of its own."""
    return str(Path(*path.parts[:2]))


def imports_between(name) -> Graph:
    """What imports what; `name` is a function from a file to what it belongs to."""
    found: dict[str, set[str]] = {name(path): set() for path in FILES}
    for path in FILES:
        for other in {MODULES[module] for module in modules(path) if module in MODULES}:
            if name(other) != name(path):
                found[name(path)].add(name(other))
    return found


def circle(graph: Graph) -> list[str]:
    """One circle in a graph, from a node back to itself; empty if there is none."""
    done: set[str] = set()

    def search(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node not in done:
            for other in sorted(graph[node]):
                if found := search(other, [*way, node]):
                    return found
            done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := search(node, []))), [])


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_one_way(path):
    allowed = MAY_IMPORT[path.parts[0]] | ({EXCEPTION[1].parts[0]} if path == EXCEPTION[0] else set())
    assert layers(path) <= allowed


def test_engines_take_only_errors_from_the_pipeline():
    taken = {name for name in modules(EXCEPTION[0]) if name.startswith("pipeline")}
    assert taken == {"pipeline.errors"}


@pytest.mark.parametrize("name", [str, room], ids=["files", "rooms"])
def test_nothing_imports_in_a_circle(name):
    assert circle(imports_between(name)) == []


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_every_room_says_what_lives_there(layer):
    folders = [path for path in (ROOT / layer).rglob("*") if path.is_dir() and list(path.glob("*.py"))]
    assert folders
    assert [
        str(path) for path in folders if not ast.get_docstring(ast.parse((path / "__init__.py").read_text()))
    ] == []


def test_the_command_loads_nothing_heavy():
    script = "import sys, posestream, tools.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & HEAVY


def test_the_checks_find_what_they_look_for():
    assert len(FILES) > 200
    assert layers(Path("operators/graphs/graph_files.py")) == {"operators", "pipeline"}
    assert "engines/codecs" in imports_between(room)["engines/contracts"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
