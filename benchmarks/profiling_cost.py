"""What profiling costs: one run in which recording is off, on, and on with the trace, in turn.

    python benchmarks/profiling_cost.py [CLIP …] [--streams 1,4] [--blocks 60] [--segment 1.5] [--runs 6]
                                        [--graph human-lite] [--json FILE]

The run repeats the clips in one process, with the recorder of `posestream profile`. Each block has a segment
of each kind, in an order that changes from block to block. Segments are compared only within their block, so
that drift (of the machine's clock, of the scene) affects all kinds alike. The table shows what recording adds
to the time of a frame (one over frames/s) and to its processor time: medians over the blocks, with 95 %
confidence intervals (bootstrap). Recording is everything that `profile` does while it measures: calls,
engines, stacks of threads, use of the machine.

In addition, --runs pairs of short runs, one with a recorder that is off and one without a recorder, show what
its presence costs. The counters that every run has are part of both; benchmarks/runtime.py measures them.

Exit code 1 if recording adds more than 2 % to the time a frame takes, or more than 5 % with the trace.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import harness
import numpy as np

from operators.graphs.graph_files import load_graph, with_sinks
from pipeline.measurement.run_stats import RunStats
from pipeline.measurement.tracing import Tracer
from pipeline.run import Run
from tools.profiling.machine.gpus import load_nvml
from tools.profiling.machine.usage import UseSampler
from tools.profiling.recording.recorder import Recorder
from tools.profiling.settings import SAMPLE_HZ

OFF, ON, TRACED = "off", "recording", "with trace"
KINDS = (OFF, ON, TRACED)
TARGETS = {ON: 0.02, TRACED: 0.05}
WARM_S, SETTLE_S = 5.0, 0.2
COLUMNS = ("", "streams", "time a frame", "95 %", "CPU a frame", "95 %", "pairs", "target")


@dataclass(frozen=True)
class Segment:
    """A part of a run."""

    fps: float
    cpu_ms: float  # processor time of the process for a frame

    @classmethod
    def of(cls, window: RunStats) -> Segment:
        frames = max(sum(stream.finished for stream in window.streams), 1)
        return cls(frames / window.run_ns * 1e9, window.cpu_ns / frames / 1e6)


@dataclass(frozen=True)
class Cost:
    """What recording adds, as a share of the value without it: median over the pairs, 95 % interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Cost:
        """The cost from ratios of values with recording to values without."""
        costs = np.array(ratios) - 1
        drawn = np.random.default_rng(0).choice(costs, (2000, len(costs)))
        low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
        return cls(float(np.median(costs)), float(low), float(high))

    def cells(self) -> list[str]:
        """The median and the interval, for the table."""
        return [f"{self.median:+.1%}", f"{self.low:+.1%} to {self.high:+.1%}"]


def main() -> int:
    parser = harness.parser(__doc__ or "")
    parser.add_argument("clips", nargs="*", type=Path, help="default: the sample clip")
    parser.add_argument("--streams", default="1,4", help="default: 1,4")
    parser.add_argument("--blocks", type=int, default=60, help="default: 60")
    parser.add_argument("--segment", type=float, default=1.5, help="in seconds; default: 1.5")
    parser.add_argument("--runs", type=int, default=6, help="pairs of runs; default: 6")
    parser.add_argument("--graph", default="human-lite", help="default: human-lite")
    given = parser.parse_args()
    clips = given.clips or [harness.sample_clip()]
    rows: list[dict[str, Any]] = []
    for streams in (int(number) for number in given.streams.split(",")):
        sources = {f"s{number}": str(clip) for number, clip in enumerate(islice(cycle(clips), streams))}
        blocks = switched(given.graph, sources, given.blocks, given.segment)
        rows += [row(kind, streams, [(b[kind], b[OFF]) for b in blocks]) for kind in (ON, TRACED)]
        pairs = in_pairs(given.graph, sources, given.runs, 4 * given.segment)
        rows.append(row("a recorder that is off", streams, pairs))
    harness.show(f"{given.graph}: what profiling costs", COLUMNS, [cells(found) for found in rows])
    harness.write(given.json, harness.result(rows, segment_s=given.segment))
    return 0 if all(found["met"] is not False for found in rows) else 1


def switched(graph: str, sources: dict[str, str], blocks: int, segment_s: float) -> list[dict[str, Segment]]:
    """One run with this many blocks; the segments of each block by kind."""
    orders = cycle(itertools.permutations(KINDS))
    found: list[dict[str, Segment]] = []
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder), trace=True, sample_hz=SAMPLE_HZ)
        with running(graph, sources, recorder) as run:
            for number, order in enumerate(islice(orders, blocks)):
                found.append({kind: segment(run, recorder, kind, segment_s) for kind in order})
                print(f"\r{len(sources)} streams: block {number + 1} of {blocks}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return found


def segment(run: Run, recorder: Recorder, kind: str, seconds: float) -> Segment:
    """Let the run go on for a while, with a recorder of this kind."""
    recorder.active, recorder.trace = kind != OFF, kind == TRACED
    use = UseSampler(lambda: run.stats().finished, load_nvml()) if recorder.active else None
    run.wait(SETTLE_S)
    before = run.stats()
    if use:
        use.start()
    run.wait(seconds)
    window = run.stats().since(before)
    if use:
        use.stop()
    return Segment.of(window)


def in_pairs(graph: str, sources: dict[str, str], n: int, seconds: float) -> list[tuple[Segment, Segment]]:
    """Pairs of runs, with a recorder that is off and without a recorder."""

    def once(recorder: Recorder | None) -> Segment:
        if recorder:
            recorder.active = False
        with running(graph, sources, recorder) as run:
            before = run.stats()
            run.wait(seconds)
            return Segment.of(run.stats().since(before))

    with tempfile.TemporaryDirectory() as folder:
        cases: dict[str, Callable[[], Segment]] = {
            "with": lambda: once(Recorder(Path(folder), sample_hz=SAMPLE_HZ)),
            "without": lambda: once(None),
        }
        found = harness.in_turn(cases, n)
    return list(zip(found["with"], found["without"], strict=True))


@contextmanager
def running(graph: str, sources: dict[str, str], tracer: Tracer | None) -> Iterator[Run]:
    """A run that is warm; it ends with this context."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = with_sinks(load_graph(graph, {"decode.loop": 0}), {"jsonl_sink": {"dir": folder}})
        run = Run(loaded, sources, tracer=tracer)
        run.start()
        run.wait(WARM_S)
        yield run
        run.stop()
        run.finish()


def row(what: str, streams: int, pairs: Sequence[tuple[Segment, Segment]]) -> dict[str, Any]:
    """A row of the document, from pairs of segments: with recording, and without."""
    time_cost = Cost.of([without.fps / one.fps for one, without in pairs])
    cpu_cost = Cost.of([one.cpu_ms / without.cpu_ms for one, without in pairs])
    target = TARGETS.get(what)
    return {
        "what": what, "streams": streams, "pairs": len(pairs), "time_a_frame": asdict(time_cost),
        "cpu_a_frame": asdict(cpu_cost), "target": target,
        "met": None if target is None else time_cost.median <= target,
        "fps": float(np.median([one.fps for one, _ in pairs])),
        "fps_without": float(np.median([without.fps for _, without in pairs])),
    }  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """The row of the table."""
    target = "" if row["met"] is None else f"{row['target']:.0%} {'met' if row['met'] else 'MISSED'}"
    time_cost, cpu_cost = Cost(**row["time_a_frame"]), Cost(**row["cpu_a_frame"])
    costs = [*time_cost.cells(), *cpu_cost.cells()]
    return [row["what"], str(row["streams"]), *costs, str(row["pairs"]), target]


if __name__ == "__main__":
    sys.exit(main())
