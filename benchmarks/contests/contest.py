"""A contest: sides that do the same work on the same clips, and the bound for all of them."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contests.environment import Figures
from engines.contracts.contract import Contract
from engines.verification.bench import bench_model
from operators.graphs.graph_files import with_sinks
from pipeline.graph import Graph
from pipeline.make_run import make_run
from pipeline.processes.split_run import processes_for
from tools.profiling.bounds import IsolatedBench
from tools.profiling.document import Alone

CORES = os.cpu_count() or 1
OURS, BOUND = "posestream", "bound"


@dataclass(frozen=True)
class Side:
    """One of the programs that are compared."""

    name: str
    setting: str  # its processes and threads, and what else differs from the other sides
    run: Callable[[], Figures] | None  # None: it cannot run, and `setting` says why
    target: float | None = None  # of the ratio of ours to it
    against: str = OURS  # the side of ours in this ratio


@dataclass(frozen=True)
class Contest:
    """The sides for a number of streams, ours first."""

    name: str
    sides: list[Side]
    alone: Callable[[], dict[str, float]]  # part: ms of an item on one thread, with nothing else running
    per_frame: Callable[[float], dict[str, float]]  # persons in a frame → part: items
    bound_target: float | None = None  # of the ratio of ours to the bound
    notes: list[str] = field(default_factory=list)  # printed below the table

    def bound(self, alone_ms: Mapping[str, float], persons: float) -> tuple[float, list[Alone]]:
        """Frames/s of cores that only decode and run models, and the parts of a frame."""
        items = self.per_frame(persons)
        parts = [Alone(name=name, ms=ms, per_frame=items[name]) for name, ms in alone_ms.items()]
        return CORES / sum(part.ms_per_frame for part in parts) * 1e3, parts


def ours(graph: Graph, clips: Sequence[Path]) -> Side:
    """`posestream run` of a graph over all clips at once, with its own choice of processes."""
    processes = processes_for(
        graph, len(clips), None if graph.processes == "auto" else graph.processes, CORES
    )

    def run() -> Figures:
        with tempfile.TemporaryDirectory() as folder:
            with_files = with_sinks(graph, {"jsonl_sink": {"dir": folder}})
            running = make_run(with_files, sources_of(clips), processes=None)
            running.start()
            stats = running.finish()
        persons = sum(stream.instances for stream in stats.streams) / stats.finished
        return Figures(stats.fps, stats.cores_busy, persons)

    return Side(OURS, f"all at once, {count(processes, 'process')} that divide {count(CORES, 'core')}", run)


def sources_of(clips: Sequence[Path]) -> dict[str, str]:
    """A stream for each clip; their names do not matter."""
    return {f"camera{number}": str(clip) for number, clip in enumerate(clips, 1)}


def shares(clips: Sequence[Path], processes: int) -> list[list[Path]]:
    """The clips, divided evenly among processes."""
    return [list(clips[number::processes]) for number in range(processes)]


def decode_ms(graph: Graph, clips: Sequence[Path]) -> float:
    """Processor time of decoding a frame on one thread, mean over the clips."""
    alone = IsolatedBench()
    return statistics.mean(alone.decode_ms(graph, str(clip), live=False) or 0.0 for clip in clips)


def model_ms(contract: Contract, path: Path | None = None, backend: str = "auto") -> float:
    """Time of one item on one thread, in batches of one, median."""
    bench = bench_model(contract, path=path, backend=backend, batches=[1], seconds=1.0)
    return float(bench.rows[0].p50_ms or 0.0)


def count(number: int, what: str) -> str:
    """2 processes, 1 core."""
    plural = "es" if what.endswith("s") else "s"
    return f"{number} {what}{plural if number != 1 else ''}"
