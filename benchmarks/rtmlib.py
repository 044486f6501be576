"""Frames/s of RTMDet-nano and RTMPose-m on video files: ours, rtmlib's, and the bound of this machine.

    python benchmarks/rtmlib.py [CLIP ...] [--pose FILE.onnx] [--repeat 3] [--loops 3] [--json FILE]

Both run the same two ONNX files, decode the same clips, detect on every frame and draw nothing. One camera is
the first clip; several are all clips at once (the sample clip four times unless given), for rtmlib one after
another. rtmlib is measured as shipped, its two sessions with a thread a core each that spin while they wait,
and without spinning. It runs in an environment of its own, made on first use, with our version of ONNX
Runtime. Ours is `posestream run --graph human`, which also tracks and writes JSONL. Loading is left out.

Without `--pose`, RTMPose-m has weights drawn at random, exported on first use (that needs PyTorch): as fast
as with its real ones, since the detector alone decides how many persons are looked at, and useless otherwise.

The bound is what the processors could do if they did nothing but decode and run the models, measured alone
on one thread: cores / (decode + detector + persons a frame x pose).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from peer import peer_python, sample_clip
from throughput import decode_ms

from engines.assets import fetch
from engines.bench import bench_model
from engines.contract import load_contract
from engines.export import export_model
from operators.graphs import load_graph, with_sinks
from pipeline.run import run_graph

GRAPH, DETECTOR, POSE = "human", "rtmdet-nano", "rtmpose-m-body8"
PEER, SEED = "rtmlib", 0
PEER_PROGRAM = Path(__file__).with_name("rtmlib_video.py")
TARGETS = {"rtmlib": 1.8, "rtmlib, no spinning": 1.2}


class Figures(NamedTuple):
    """One measurement; a median of several likewise."""

    fps: float
    cores: float  # kept busy
    persons: float  # a frame


def ours(clips: Sequence[Path], pose: Path, loops: int, processes: int | None) -> Figures:
    """`posestream run` over all clips at once, each played `loops` times."""
    changes = {"detect.model": DETECTOR, "pose.model": str(pose), "decode.loop": loops}
    with tempfile.TemporaryDirectory() as folder:
        graph = with_sinks(load_graph(GRAPH, changes), {"jsonl_sink": {"dir": folder}})
        sources = {f"camera{i}": str(clip) for i, clip in enumerate(clips)}
        stats = run_graph(graph, sources, processes=processes)
    persons = sum(stream.instances for stream in stats.streams) / stats.finished
    return Figures(stats.fps, stats.cores_busy, persons)


def peers(clips: Sequence[Path], pose: Path, loops: int, python: Path, spinning: str) -> Figures:
    """The peer over the clips, one after another."""
    detector, estimator = load_contract(DETECTOR), load_contract(POSE)
    models = [fetch(detector.asset), *detector.input.size, pose, *estimator.input.size]
    # -P, or `import rtmlib` would find this very file beside the program.
    command = [python, "-P", PEER_PROGRAM, *models, spinning, *[*clips] * loops]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return Figures(found["fps"], found["cores"], found["persons"])


def bound(clips: Sequence[Path], pose: Path, persons: float) -> tuple[float, dict[str, float]]:
    """Frames/s if the cores did nothing but decode and run models; and the parts in ms a frame."""
    parts = {
        "decode": float(np.mean([decode_ms(clip) for clip in clips])),
        "detector": model_ms(DETECTOR),
        f"pose x {persons:.2f}": model_ms(POSE, pose) * persons,
    }
    return (os.cpu_count() or 1) / sum(parts.values()) * 1e3, parts


def model_ms(name: str, path: Path | None = None) -> float:
    """Time of one item on one thread, alone, in batches of one."""
    measured = bench_model(load_contract(name), path=path, backend="onnxruntime", batches=[1])
    return float(measured.rows[0].p50_ms or np.nan)


def measure(
    clips: Sequence[Path], pose: Path, python: Path, arguments: argparse.Namespace
) -> tuple[dict[str, Figures], dict[str, float]]:
    """The medians of all repeats, by what was measured; and the parts of the last bound."""
    measured: dict[str, list[Figures]] = {}
    parts: dict[str, float] = {}
    for _ in range(arguments.repeat):  # in turn, so that a slow moment of the machine meets all alike
        one = ours(clips, pose, arguments.loops, arguments.processes)
        fps, parts = bound(clips, pose, one.persons)
        turn = {
            "posestream": one,
            "rtmlib": peers(clips, pose, arguments.loops, python, "spinning"),
            "rtmlib, no spinning": peers(clips, pose, arguments.loops, python, "no-spinning"),
            "bound": Figures(fps, float(os.cpu_count() or 1), one.persons),
        }
        for name, figures in turn.items():
            measured.setdefault(name, []).append(figures)
    return {name: Figures(*np.median(runs, axis=0).tolist()) for name, runs in measured.items()}, parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--pose", type=Path, help="an exported RTMPose-m; random weights unless given")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--loops", type=int, default=3, help="how often a clip is played in one measurement")
    parser.add_argument("--processes", type=int, help="for ours; as `posestream run` chooses unless given")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    clips = list(arguments.clips) or [sample_clip()] * 4
    pose = arguments.pose or export_model(load_contract(POSE), seed=SEED).path
    python = peer_python(PEER, f"onnxruntime=={version('onnxruntime')}")
    rows = {}
    for name, chosen in {"1 camera": clips[:1], f"{len(clips)} cameras": clips}.items():
        figures, parts = measure(chosen, pose, python, arguments)
        show(name, figures, parts)
        rows[name] = {"parts_ms": parts, **{what: one._asdict() for what, one in figures.items()}}
    if arguments.json:
        machine = {"processor": platform.processor(), "cores": os.cpu_count()}
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


def show(name: str, figures: dict[str, Figures], parts: dict[str, float]) -> None:
    title = f"{name}, median frames/s"
    table = Table("", "frames/s", "cores", "persons a frame", "posestream is", "target", title=title)
    for what, one in figures.items():
        ratio = f"{figures['posestream'].fps / one.fps:.2f} x"
        target = f"{TARGETS[what]} x" if what in TARGETS else ""
        table.add_row(what, f"{one.fps:.1f}", f"{one.cores:.2f}", f"{one.persons:.2f}", ratio, target)
    console = Console()
    console.print(table)
    told = ", ".join(f"{part} {ms:.1f} ms" for part, ms in parts.items())
    console.print(f"bound: {os.cpu_count()} cores / ({told})")


if __name__ == "__main__":
    main()
