"""Imports point one way: tools → operators → {pipeline, engines}."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "pipeline": {"pipeline"},
    "engines": {
        "engines"
    },  # and `pipeline.errors`, in `engines/errors.py` alone: one base class for all errors
    "operators": {"operators", "pipeline", "engines"},
    "tools": {"tools", "operators", "pipeline", "engines", "posestream"},
}
# Imported inside, where needed: the command starts at once, and runs without the extras.
HEAVY = {"torch", "tensorrt", "tensorrt_rtx", "cuda", "pynvml", "ultralytics", "onnx", "pyarrow", "kafka"}


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in names}


def files() -> list[Path]:
    return sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    folder = path.relative_to(ROOT).parts[0]
    own = imports(path) & (set(MAY_IMPORT) | {"posestream", "tests", "benchmarks"})
    allowed = MAY_IMPORT[folder] | ({"pipeline"} if path == ROOT / "engines" / "errors.py" else set())
    assert own <= allowed


def test_the_command_loads_nothing_heavy():
    script = "import sys, posestream, tools.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & HEAVY


def test_the_check_sees_what_it_must():
    assert len(files()) > 25
    assert "pipeline" in imports(ROOT / "operators" / "graphs" / "graph_files.py")
    assert "posestream" not in sys.stdlib_module_names
