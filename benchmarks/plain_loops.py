"""What the runtime costs beside plain loops over the same operators, with a process a core and nothing else.

    python benchmarks/plain_loops.py [--graph human-lite] [--streams 1,4] [--json FILE] [CLIP …]

A loop decodes a frame, gives it to each operator in turn, and takes the next one: no threads, no edges, no
result files. The clips are divided among as many processes as posestream uses; models are loaded before the
clock starts. With one stream there is one loop, measured with models on one thread and with models on all
cores.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import harness

from operators.graphs.graph_files import load_graph, with_sinks
from pipeline.make_run import run_graph
from pipeline.operator import RunInfo
from tools.options.graph import parse_changes

CORES = os.cpu_count() or 1
Options = Mapping[str, Any]


def ours(graph: str, options: Options, clips: Sequence[Path], processes: int) -> float:
    """Frames/s of `posestream run`."""
    with tempfile.TemporaryDirectory() as folder:
        with_files = with_sinks(load_graph(graph, dict(options)), {"jsonl_sink": {"dir": folder}})
        sources = {f"clip{i}": str(clip) for i, clip in enumerate(clips)}
        return run_graph(with_files, sources, processes=processes).fps


def loops(graph: str, options: Options, clips: Sequence[Path], processes: int, threads: int) -> float:
    """Frames/s of plain loops in this many processes."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    ends, workers = [], []
    for number in range(processes):
        here, there = context.Pipe(duplex=False)
        given = (graph, dict(options), clips[number::processes], threads, barrier, there)
        workers.append(context.Process(target=loop, args=given))
        ends.append(here)
        workers[-1].start()
    found = [end.recv() for end in ends]
    for worker in workers:
        worker.join()
    frames, starts, stops = zip(*found, strict=True)
    return sum(frames) / (max(stops) - min(starts))


def loop(
    graph: str, options: Options, clips: Sequence[Path], threads: int, barrier: Barrier, end: Connection
) -> None:
    """Process the clips of one process, one after the other."""
    nodes = load_graph(graph, dict(options)).nodes
    run = RunInfo.new(graph)._replace(cores=threads)
    source, *operators = (node.make() for node in nodes)
    for operator in (source, *operators):
        operator.open(run)
    barrier.wait()
    start, frames = time.monotonic(), 0
    for number, clip in enumerate(clips):
        for packet in source.read(f"clip{number}", str(clip)):
            packets = [packet]
            for operator in operators:
                packets = list(operator.process(packets))
            frames += len(packets)
    end.send((frames, start, time.monotonic()))


def main() -> int:
    parser = harness.parser(__doc__ or "", repeat=4)
    parser.add_argument("clips", nargs="*", type=Path, help="default: the sample clips")
    parser.add_argument("--graph", default="human-lite", help="a graph without forks; default: human-lite")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NODE.OPTION=VALUE", help="as in posestream run"
    )
    parser.add_argument("--streams", default="1,4", help="default: 1,4")
    parser.add_argument("--loops", type=int, default=3, help="how often each clip is played; default: 3")
    given = parser.parse_args()
    clips = given.clips or harness.sample_clips()
    options = {"decode.loop": given.loops, **parse_changes(given.set)}
    rows: list[dict[str, Any]] = []
    for streams in map(int, given.streams.split(",")):
        played = list(islice(cycle(clips), streams))
        processes = min(CORES, streams)
        cases = {"posestream": partial(ours, given.graph, options, played, processes)}
        for threads in (1,) if streams > 1 else (1, CORES):
            name = f"plain loops, {processes} of {threads} thread{'s' if threads > 1 else ''}"
            cases[name] = partial(loops, given.graph, options, played, processes, threads)
        found = harness.in_turn(cases, given.repeat)
        first = found["posestream"]
        sides = [(name, harness.Spread.of(fps), harness.ratios(first, fps)) for name, fps in found.items()]
        harness.show(
            f"{given.graph}, {streams} streams, medians of {given.repeat}",
            ("", "frames/s", "posestream is"),
            [(name, str(fps), f"{ratio.written('{:.2f}')} x") for name, fps, ratio in sides],
        )
        rows += [
            {"streams": streams, "side": name, "fps": vars(fps), "ours_is": vars(ratio)}
            for name, fps, ratio in sides
        ]
    harness.write(given.json, harness.result(rows, graph=given.graph, clips=[clip.name for clip in clips]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
