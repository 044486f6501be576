"""Frames/s of BlazePose on video files: ours, the original's, and the bound of this machine.

    python benchmarks/throughput.py [CLIP ...] [--repeat 3] [--loops 3] [--processes N] [--json FILE]

One camera is the first clip; several are all clips at once (the sample clip four times unless given). The
original is MediaPipe's Python solution as its users run it, one clip after another, in an environment of its
own that is made on first use. Ours is `posestream run` with the default graph, one person a frame as in the
original, and JSONL written. Both decode the files; nobody draws. Loading of models is left out for both.

The bound is what the processors could do if they did nothing but decode and run the models, measured alone
on one thread: cores / (decode + landmarks + detector / every).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from peer import peer_python, sample_clip

from engines.contract import load_contract
from engines.load import load_engine
from operators.decode import Decode
from operators.graphs import load_graph, with_sinks
from pipeline.run import run_graph

GRAPH = "human-lite"
PEER_PROGRAM = Path(__file__).with_name("mediapipe_video.py")


def ours(clips: Sequence[Path], loops: int, processes: int | None) -> tuple[float, float]:
    """(frames/s, cores kept busy) of `posestream run` over all clips at once, each played `loops` times.

    Both from the first frame to the last; the cores are those of all processes that run the graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        graph = with_sinks(
            load_graph(GRAPH, {"pose.max_instances": 1, "decode.loop": loops}),
            {"jsonl_sink": {"dir": folder}},
        )
        sources = {f"camera{i}": str(clip) for i, clip in enumerate(clips)}
        stats = run_graph(graph, sources, processes=processes)
        return stats.fps, stats.cores_busy


def original(clips: Sequence[Path], loops: int, python: Path) -> tuple[float, float]:
    """(frames/s, cores kept busy) of the original over the clips, one after another."""
    command = [python, PEER_PROGRAM, *clips * loops]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["fps"], found["cores"]


def decode_ms(clip: Path) -> float:
    """CPU time of decoding a frame to RGB, alone."""
    decode = Decode(threads=1)
    start = time.process_time()
    frames = sum(1 for _ in decode.read("clip", str(clip)))
    return (time.process_time() - start) / frames * 1e3


def model_ms(name: str, runs: int = 60) -> float:
    """Time of one run of a model on one thread, alone."""
    contract = load_contract(name)
    engine = load_engine(contract, threads=1)
    (width, height), nhwc = contract.input.size, contract.input.layout == "nhwc"
    shape = (1, height, width, 3) if nhwc else (1, 3, height, width)
    batch = {contract.input.name: np.random.default_rng(0).random(shape, np.float32)}
    for _ in range(10):
        engine.run(batch)
    start = time.perf_counter()
    for _ in range(runs):
        engine.run(batch)
    return (time.perf_counter() - start) / runs * 1e3


def bound_fps(clips: Sequence[Path]) -> tuple[float, dict[str, float]]:
    """Frames/s if the cores did nothing but decode and run models; and the parts in ms."""
    every = load_graph(GRAPH).node("detect").options["every"]
    parts = {
        "decode": statistics.mean(decode_ms(clip) for clip in clips),
        "landmarks": model_ms("blazepose-full"),
        f"detector / {every}": model_ms("blazepose-detector") / every,
    }
    return (os.cpu_count() or 1) / sum(parts.values()) * 1e3, parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--loops", type=int, default=3, help="how often a clip is played in one measurement")
    parser.add_argument("--processes", type=int, help="for ours; as `posestream run` chooses unless given")
    parser.add_argument("--no-peer", action="store_true", help="only ours and the bound")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    clips = list(arguments.clips) or [sample_clip()] * 4
    python = None if arguments.no_peer else peer_python()
    cases = {"1 camera": clips[:1], f"{len(clips)} cameras": clips}
    rows, parts = [], {}
    for name, chosen in cases.items():
        measured: dict[str, list[tuple[float, float]]] = {"bound": [], "ours": [], "original": []}
        for _ in range(arguments.repeat):  # in turn, so that a slow moment of the machine meets all alike
            fps, parts = bound_fps(chosen)
            measured["bound"].append((fps, 0))
            measured["ours"].append(ours(chosen, arguments.loops, arguments.processes))
            if python:
                measured["original"].append(original(chosen, arguments.loops, python))
        median = {k: tuple(np.median(v, axis=0)) for k, v in measured.items() if v}
        rows.append({"case": name, "parts_ms": parts, **{k: v[0] for k, v in median.items()}})
        rows[-1]["cores"] = {k: v[1] for k, v in median.items() if k != "bound"}
    show(rows)
    if arguments.json:
        machine = {
            "processor": platform.processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


def show(rows: list[dict]) -> None:
    table = Table(
        "", "ours", "bound", "ours / bound", "original", "ours / original", title="frames/s, median"
    )
    for row in rows:
        peer = row.get("original")
        table.add_row(
            row["case"],
            f"{row['ours']:.1f} ({row['cores']['ours']:.2f} cores)",
            f"{row['bound']:.1f}",
            f"{100 * row['ours'] / row['bound']:.0f} %",
            f"{peer:.1f} ({row['cores']['original']:.2f} cores)" if peer else "-",
            f"{row['ours'] / peer:.2f}" if peer else "-",
        )
    console = Console()
    console.print(table)
    for row in rows:
        told = ", ".join(f"{part} {ms:.1f} ms" for part, ms in row["parts_ms"].items())
        console.print(f"bound for {row['case']}: {os.cpu_count()} cores / ({told})")


if __name__ == "__main__":
    main()
