"""What the commands for a GPU have in common: their options, and where the result goes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import harness

RESULTS = Path(harness.__file__).resolve().parent / "results" / "gpu"
ELSEWHERE = RESULTS.parents[2] / "build"  # what no GPU has given is no result
PACKAGES = ("tensorrt-cu13-bindings", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-cudnn-cu13", "triton")


def parser(doc: str) -> argparse.ArgumentParser:
    """The command line of a command that has to end within a time."""
    made = harness.parser(doc)
    made.add_argument("--minutes", type=float, default=7.0, help="for all of it; 7 unless given")
    made.add_argument("--commit", help="of the checkout, where it came without its .git")
    return made


def keep(kind: str, rows: Sequence[Mapping[str, Any]], given: argparse.Namespace, **more: Any) -> Path:
    """Write the result where --json says, or to results/gpu/GPU-KIND.json, and say where that is.

    Without a GPU it goes to build/, which is not kept.
    """
    document = harness.result(rows, versions=_versions(), **more)
    machine = document["machine"]
    if given.commit:
        machine["commit"] = given.commit
    gpu = next(iter(machine.get("gpus", [])), "")
    name = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") or "no-gpu"
    path = given.json or (RESULTS if gpu else ELSEWHERE) / f"{name}-{kind}.json"
    harness.write(path, document)
    print(f"  {path}")
    return path


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
