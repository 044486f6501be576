"""Options and result files that the benchmark and the tests on a GPU have in common."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness

from tools.profiling.machine.hardware import installed_versions, this_machine

RESULTS = Path(harness.__file__).resolve().parent / "results" / "gpu"
WITHOUT_GPU = RESULTS.parents[2] / "build"  # such a result is no measurement of a GPU, so it is not kept
PACKAGES = ("tensorrt-cu13-bindings", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-cudnn-cu13", "triton")


def parser(doc: str, minutes: float = 7.0) -> argparse.ArgumentParser:
    """The command line of a command with a time limit."""
    made = harness.parser(doc)
    made.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the result and the log")
    made.add_argument(
        "--minutes", type=float, default=minutes, help=f"time limit for all of it; default {minutes:g}"
    )
    made.add_argument("--carried", type=Path, metavar="FOLDER", help="the folder that carry.py has filled")
    made.add_argument("--commit", help="commit of the checkout, if it has no .git")
    return made


def result_path(kind: str, given: argparse.Namespace) -> Path:
    """Where the result goes: --json, or the file GPU-KIND.json in a folder.

    The folder is --out, else results/gpu/, or build/ without a GPU.
    """
    gpu = next(iter(this_machine().gpus), "")
    name = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") or "no-gpu"
    return given.json or (given.out or (RESULTS if gpu else WITHOUT_GPU)) / f"{name}-{kind}.json"


def log_path(result: Path) -> Path:
    """The new, empty log beside a result."""
    path = result.with_suffix(".log")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def document(rows: Sequence[Mapping[str, Any]], given: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """A result with the machine, the versions of its libraries, and the commit that was given."""
    made = harness.result(rows, versions=installed_versions(PACKAGES), **more)
    if given.commit:
        made["machine"]["commit"] = given.commit
    return made


def save_result(
    path: Path, rows: Sequence[Mapping[str, Any]], given: argparse.Namespace, **more: Any
) -> None:
    """Write the result and print its path."""
    harness.write(path, document(rows, given, **more))
    print(f"  {path}")
