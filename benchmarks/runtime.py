"""What the runtime costs: six stages that pass packets on, beside threads with bare `queue.Queue`s.

    python benchmarks/runtime.py [--packets 20000] [--repeat 5] [--json FILE]

The queues only hand objects from thread to thread: they are the bound. The runtime also takes times, counts,
batches, keeps order and handles errors. Its target is 50 µs a packet and stage.

The last line is the time for reading clocks. Every call of a stage reads them, with or without a profile, to
know how long it worked, computed, and waited for room behind it.
"""

from __future__ import annotations

import itertools
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator

import harness

from pipeline.graph import check_graph
from pipeline.make_run import run_graph
from pipeline.operator import Operator, Source
from pipeline.packet import Packet

STAGES, CAPACITY, TARGET_US = 6, 8, 50


class Numbers(Source):
    def __init__(self, packets: int):
        self.packets = packets

    def read(self, stream: str, uri: str) -> Iterator[Packet]:
        for seq in range(self.packets):
            yield Packet(stream, seq, seq, time.time_ns(), (64, 48))


class Same(Operator):
    def process(self, packets: list[Packet]) -> list[Packet]:
        return packets


def through_runtime(packets: int, *, streams: int = 1, workers: int = 1, batch: int = 1) -> float:
    """Seconds that `packets` take through the six stages."""
    nodes: dict[str, dict[str, object]] = {"source": {"op": "numbers", "packets": packets // streams}}
    last = "source"
    for stage in range(STAGES):
        nodes[f"stage{stage}"] = {
            "op": "same", "after": last, "workers": workers, "batch": {"max": batch}, "capacity": CAPACITY
        }  # fmt: skip
        last = f"stage{stage}"
    graph = check_graph({"name": "bench", "graph": nodes}, {"numbers": Numbers, "same": Same})
    start = time.perf_counter()
    stats = run_graph(graph, {f"s{i}": "" for i in range(streams)})
    seconds = time.perf_counter() - start
    assert stats.finished == packets // streams * streams
    return seconds


def through_queues(packets: int) -> float:
    """Seconds that `packets` take through as many threads, with only queues between them."""
    queues: list[queue.Queue[int | None]] = [queue.Queue(CAPACITY) for _ in range(STAGES + 1)]

    def move(source: queue.Queue[int | None], target: queue.Queue[int | None]) -> None:
        while (item := source.get()) is not None:
            target.put(item)
        target.put(None)

    def feed() -> None:
        for item in range(packets):
            queues[0].put(item)
        queues[0].put(None)

    threads = [threading.Thread(target=move, args=pair) for pair in itertools.pairwise(queues)]
    start = time.perf_counter()
    for thread in [*threads, threading.Thread(target=feed)]:
        thread.start()
    while queues[-1].get() is not None:
        pass
    return time.perf_counter() - start


def clocks(calls: int) -> float:
    """Seconds that this many calls of a stage take to read clocks."""
    start = time.perf_counter()
    for _ in range(calls):
        time.monotonic_ns(), time.thread_time_ns()  # at the begin of a call
        time.monotonic_ns(), time.thread_time_ns()  # at its end
        time.monotonic_ns(), time.monotonic_ns()  # after its results are handed on
    return time.perf_counter() - start


def main() -> int:
    parser = harness.parser(__doc__ or "", repeat=5)
    parser.add_argument("--packets", type=int, default=20_000, help="default: 20,000")
    given = parser.parse_args()
    bare = f"queue.Queue, {STAGES} threads"
    cases: dict[str, Callable[[], float]] = {
        bare: lambda: through_queues(given.packets),
        "posestream, 1 packet a call": lambda: through_runtime(given.packets),
        "posestream, up to 8 a call": lambda: through_runtime(given.packets, batch=8),
        "posestream, 2 workers a stage": lambda: through_runtime(given.packets, workers=2),
        "posestream, 8 streams": lambda: through_runtime(given.packets, streams=8),
        "of this, clocks": lambda: clocks(given.packets * STAGES),
    }
    seconds = harness.in_turn(cases, given.repeat)
    rows = [
        {
            "case": name,
            "packets_per_s": round(given.packets / statistics.median(times), 1),
            "us_a_packet_and_stage": round(statistics.median(times) / given.packets / STAGES * 1e6, 2),
            "over_queues": round(harness.ratios(times, seconds[bare]).median, 3),
        }
        for name, times in seconds.items()
    ]
    harness.show(
        f"{STAGES} stages, edges of {CAPACITY}, {given.packets} packets, median of {given.repeat} runs",
        ("", "packets/s", "µs a packet and stage", "× the queues"),
        [
            [
                row["case"],
                f"{row['packets_per_s']:.0f}",
                f"{row['us_a_packet_and_stage']:.1f}",
                f"{row['over_queues']:.2f}",
            ]
            for row in rows
        ],
    )
    met = all(row["us_a_packet_and_stage"] <= TARGET_US for row in rows)
    print(f"  {'met   ' if met else 'MISSED'}  at most {TARGET_US} µs a packet and stage")
    harness.write(given.json, harness.result(rows, packets=given.packets, target_us=TARGET_US, met=met))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
