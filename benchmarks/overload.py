"""Four cameras at 30 fps and a pose stage that is too slow: ages stay bounded, and every drop is counted.

    python benchmarks/overload.py [--seconds 120] [--cameras 4] [--pose-ms 50] [--batch 1] [--max-age 1]

The graph has the shape of real ones, detect → track → pose → publish, with operators that only sleep.
Targets: the p99 of a frame's age, from its arrival to the end of the last stage, stays below the limit;
captured = published + dropped holds exactly for each camera; no camera gets less than half of its share; and
less than 1 % of the frames that detect has worked on are dropped later, because that work is wasted.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator

from pipeline.graph import Graph, check_graph
from pipeline.measurement.run_stats import RunStats
from pipeline.operator import Operator, Source
from pipeline.packet import Packet
from pipeline.run import Run

FPS = 30


class Camera(Source):
    """Gives a frame every 1/30 s until it is stopped, even if the frames are not taken."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def stop(self) -> None:
        self.stopped.set()

    def read(self, stream: str, uri: str) -> Iterator[Packet]:
        start, seq = time.monotonic(), 0
        while not self.stopped.wait(max(start + seq / FPS - time.monotonic(), 0)):
            yield Packet(stream, seq, seq * 1_000_000_000 // FPS, time.time_ns(), (1920, 1080))
            seq += 1


class Sleeps(Operator):
    """Sleeps `ms` a call and `ms_each` for each of its packets."""

    def __init__(self, ms: float = 0.0, ms_each: float = 0.0):
        self.ms, self.ms_each = ms, ms_each

    def process(self, packets: list[Packet]) -> list[Packet]:
        time.sleep((self.ms + self.ms_each * len(packets)) / 1e3)
        return packets


class Publish(Operator):
    """Counts the packets of each camera, independently of the runtime's own counters."""

    def process(self, packets: list[Packet]) -> list[Packet]:
        for packet in packets:
            self.count(packet.stream)
        return packets


def graph(pose_ms: float, batch: int) -> Graph:
    nodes = {
        "camera": {"op": "camera"},
        "detect": {"op": "sleeps", "ms": 4, "after": "camera"},
        "track": {"op": "sleeps", "ms": 1, "after": "detect"},
        "pose": {"op": "sleeps", "ms_each": pose_ms, "batch": {"max": batch}, "after": "track"},
        "publish": {"op": "publish", "after": "pose"},
    }
    registry: dict[str, str | type[Operator]] = {"camera": Camera, "sleeps": Sleeps, "publish": Publish}
    return check_graph({"name": "overload", "graph": nodes}, registry)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--pose-ms", type=float, default=50, help="ms a frame; at 8.3 it would keep up")
    parser.add_argument("--batch", type=int, default=1, help="frames that pose takes at once")
    parser.add_argument("--max-age", type=float, default=1.0, help="age in seconds that no frame may exceed")
    given = parser.parse_args()
    names = [f"camera{i}" for i in range(1, given.cameras + 1)]
    run = Run(graph(given.pose_ms, given.batch), dict.fromkeys(names, ""), live=True, max_age_s=given.max_age)
    run.start()
    run.wait(given.seconds)
    run.stop()
    sys.exit(0 if met(run.finish(), given.max_age) else 1)


def met(stats: RunStats, max_age_s: float) -> bool:
    """Print the figures; return whether all targets are met."""
    stages = {stage.name: stage for stage in stats.stages}
    published = stages["publish"].counters
    busy = 100 * stages["pose"].busy
    print(f"{stats.seconds:.0f} s, pose busy {busy:.0f} %, {stats.fps:.1f} frames/s published")
    print(f"{'':10}{'captured':>10}{'published':>10}{'dropped':>10}{'age p50':>10}{'p99 ms':>10}")
    for stream in stats.streams:
        print(f"{stream.name:10}{stream.read:10}{published.get(stream.name, 0):10}{stream.dropped:10}"
              f"{stream.age_p50_ms:10.0f}{stream.age_p99_ms:10.0f}")  # fmt: skip
    for edge in stats.edges:
        for reason, packets in edge.dropped.items():
            print(f"{edge.name}: {packets} dropped, {reason}")
    shares = [published.get(stream.name, 0) for stream in stats.streams]
    wasted = 1 - sum(shares) / max(stages["detect"].packets_out, 1)
    targets = {
        f"age p99 {max(s.age_p99_ms for s in stats.streams):.0f} ms, limit {1e3 * max_age_s:.0f} ms":
            max(s.age_p99_ms for s in stats.streams) < 1e3 * max_age_s,
        "captured = published + dropped, for each camera":
            all(s.read == published.get(s.name, 0) + s.dropped for s in stats.streams),
        f"smallest share {min(shares) / max(sum(shares) / len(shares), 1):.2f} of the mean":
            2 * min(shares) * len(shares) >= sum(shares),
        f"{100 * wasted:.1f} % of the frames that detect worked on were dropped later": wasted < 0.01,
    }  # fmt: skip
    for target, holds in targets.items():
        print(f"{'met   ' if holds else 'MISSED'} {target}")
    return all(targets.values())


if __name__ == "__main__":
    main()
