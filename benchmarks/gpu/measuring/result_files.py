"""Options and result files that the benchmark and the tests on a GPU have in common."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness

from tools.profiling.machine.hardware import installed_versions

RESULTS = Path(harness.__file__).resolve().parent / "results" / "gpu"
WITHOUT_GPU = RESULTS.parents[2] / "build"  # such a result is no measurement of a GPU, so it is not kept
PACKAGES = ("tensorrt-cu13-bindings", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-cudnn-cu13", "triton")


def parser(doc: str) -> argparse.ArgumentParser:
    """The command line of a command with a time limit."""
    made = harness.parser(doc)
    made.add_argument("--minutes", type=float, default=7.0, help="time limit for all of it; default 7")
    made.add_argument("--commit", help="commit of the checkout, if it has no .git")
    return made


def save_result(kind: str, rows: Sequence[Mapping[str, Any]], given: argparse.Namespace, **more: Any) -> Path:
    """Write the result to --json, or to results/gpu/GPU-KIND.json, and print the path.

    Without a GPU it goes to build/.
    """
    document = harness.result(rows, versions=installed_versions(PACKAGES), **more)
    machine = document["machine"]
    if given.commit:
        machine["commit"] = given.commit
    gpu = next(iter(machine.get("gpus", [])), "")
    name = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") or "no-gpu"
    path = given.json or (RESULTS if gpu else WITHOUT_GPU) / f"{name}-{kind}.json"
    harness.write(path, document)
    print(f"  {path}")
    return path
