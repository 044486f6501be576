"""Against ultralytics: `predict(stream=True)` and `track` of a YOLO pose model, which ours has imported."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from contests.contest import CORES, OURS, Contest, Side, count, decode_ms, model_ms, ours, shares
from contests.environment import PROGRAMS, Figures, peer_python, side_by_side
from engines.assets.model_files import find_model
from operators.graphs.graph_files import load_graph

NAME = "ultralytics"
ROOT = Path(__file__).resolve().parents[2]
GRAPH = Path(__file__).with_name("yolo-pose.yaml")
WEIGHTS, VIDEO = "ultralytics_weights.py", "ultralytics_video.py"
SHIPPED_THREADS = min(8, max(1, CORES - 1))  # ultralytics/utils/__init__.py
# Keep it from installing packages, asking servers, and printing what it does.
QUIET = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}


class Models(NamedTuple):
    """The same weights in the files of each side."""

    weights: Path  # .pt
    exported: Path  # by ultralytics
    imported: Path  # by posestream
    imported_rect: Path  # by posestream, for the rectangle to which ultralytics pads the clips
    square: str  # sizes, as in 640x640
    rect: str
    weights_note: str


def ultralytics_python() -> Path:
    """The interpreter of an environment with ultralytics and what `posestream models import` needs."""
    runtime = f"onnxruntime=={version('onnxruntime')}"
    return peer_python(f"ultralytics-{runtime.replace('==', '-')}", f"{ROOT}[ultralytics]", "lap", runtime)


def prepare(given: Path | None, clips: Sequence[Path], folder: Path) -> Models:
    """Make the files in a folder, with programs in the peer's environment.

    Raises:
        SystemExit: a file could not be made.
    """
    weights, rect = folder / "yolo-pose.pt", folder / "yolo-pose-rect.pt"
    if given:
        weights.write_bytes(given.read_bytes())
        note = given.name
    else:
        _python(folder, PROGRAMS / WEIGHTS, "random", weights, *dict.fromkeys(clips))
        note = "YOLO11n-pose with random weights: only its speed counts, its detections are meaningless"
    rect_size = _python(folder, PROGRAMS / WEIGHTS, "sized", weights, rect, clips[0])
    _python(folder, PROGRAMS / WEIGHTS, "export", weights)
    imported, imported_rect = (_import(folder, file) for file in (weights, rect))
    square_size = "{}x{}".format(*find_model(str(imported))[0].input.size)
    exported = weights.with_suffix(".onnx")
    return Models(weights, exported, imported, imported_rect, square_size, rect_size, note)


def contest(clips: Sequence[Path], loops: int, models: Models) -> Contest:
    """Ours detects and tracks; each size of input has a side of ours with the same size."""
    python, (contract, _) = ultralytics_python(), find_model(str(models.imported))

    def our_side(name: str, model: Path, size: str) -> Side:
        side = ours(load_graph(GRAPH, {"pose.model": str(model), "decode.loop": loops}), clips)
        return replace(side, name=name, setting=f"{size}, {side.setting}")

    def theirs(mode: str, model: Path, threads: int, spinning: int, processes: int = 1) -> partial[Figures]:
        runs = [[mode, model, threads, spinning, loops, *share] for share in shares(clips, processes)]
        return partial(side_by_side, python, VIDEO, runs, settings(model.parent))

    in_rect = f"{OURS}, {models.rect}"
    threads = count(CORES, "thread")
    shipped = f"as shipped: clip after clip, 1 process, {count(SHIPPED_THREADS, 'thread')} of PyTorch"
    one_by_one = "clip after clip, 1 process"
    sides = [
        our_side(OURS, models.imported, models.square),
        our_side(in_rect, models.imported_rect, models.rect),
        Side(
            "predict",
            f"{models.rect}, {shipped}",
            theirs("predict", models.weights, 0, 1),
            against=in_rect,
        ),
        Side(
            "predict tuned",
            f"{models.rect}, {one_by_one}, {threads} of PyTorch",
            theirs("predict", models.weights, CORES, 1),
            against=in_rect,
        ),
        Side(
            "track",
            f"{models.rect}, {shipped}; conf=0.25 as predict",
            theirs("track", models.weights, 0, 1),
            against=in_rect,
        ),
        Side(
            "predict ONNX",
            f"{models.square}, as shipped: {one_by_one}, {threads} of ONNX Runtime that spin",
            theirs("predict", models.exported, 0, 1),
        ),
        Side(
            "predict ONNX tuned",
            f"{models.square}, {one_by_one}, {threads} of ONNX Runtime, no spinning",
            theirs("predict", models.exported, 0, 0),
        ),
    ]
    if (processes := min(len(clips), CORES)) > 1:
        sides.append(
            Side(
                "predict side by side",
                f"{models.rect}, {count(processes, 'process')} that divide the clips, 1 thread of PyTorch",
                theirs("predict", models.weights, 1, 1, processes),
                against=in_rect,
            )
        )

    def alone() -> dict[str, float]:
        return {
            "decode": decode_ms(load_graph(GRAPH, {"pose.model": str(models.imported)}), clips),
            "model": model_ms(contract, models.imported, "onnxruntime"),
        }

    sizes = (
        f"the imported model takes {models.square}, ultralytics pads to {models.rect}; "
        "sides of the same size are compared"
    )
    per_frame = {"decode": 1.0, "model": 1.0}
    return Contest(NAME, sides, alone, lambda persons: per_frame, notes=[models.weights_note, sizes])


def settings(folder: Path) -> dict[str, str]:
    """Environment variables for processes with ultralytics, which writes its settings to `folder`."""
    return {**os.environ, **QUIET, "YOLO_CONFIG_DIR": str(folder)}


def _import(folder: Path, weights: Path) -> Path:
    """Import with `posestream models import` into a home of its own; the file holds its contract."""
    _python(folder, "-m", "tools.cli", "models", "import", weights)
    return folder / "home" / "models" / weights.with_suffix(".onnx").name


def _python(folder: Path, *arguments: object) -> str:
    """Run Python in the peer's environment; the last line of its output."""
    # PYTHONPATH: use this checkout, not the copy that was installed with its requirements.
    environment = {**settings(folder), "POSESTREAM_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    command = [str(ultralytics_python()), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise SystemExit(f"{' '.join(map(str, arguments))}: code {done.returncode}: {last}")
    return (done.stdout.strip() or "nothing").splitlines()[-1]
