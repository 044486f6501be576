"""What the runtime costs: six stages that pass packets on, beside a bare chain of `queue.Queue`s.

    python benchmarks/runtime.py [--packets 20000]

The chain of queues does nothing but hand objects from thread to thread: it is the bound. The runtime on
top of it times, counts, batches, keeps order and handles errors. Its target is 50 µs a packet and stage.
"""

from __future__ import annotations

import argparse
import itertools
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator

from pipeline.graph import check_graph
from pipeline.operator import Operator, Source
from pipeline.packet import Packet
from pipeline.run import run_graph

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
    """Seconds for `packets` through the six stages."""
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
    """Seconds for `packets` through as many threads with nothing but queues between them."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packets", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    cases: dict[str, Callable[[], float]] = {
        f"queue.Queue, {STAGES} threads": lambda: through_queues(args.packets),
        "posestream, 1 packet a call": lambda: through_runtime(args.packets),
        "posestream, up to 8 a call": lambda: through_runtime(args.packets, batch=8),
        "posestream, 2 workers a stage": lambda: through_runtime(args.packets, workers=2),
        "posestream, 8 streams": lambda: through_runtime(args.packets, streams=8),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(args.repeat):  # in turn, so that a slow moment of the machine meets all alike
        for name, case in cases.items():
            seconds[name].append(case())
    print(f"{STAGES} stages, edges of {CAPACITY}, {args.packets} packets, median of {args.repeat} runs")
    print(f"{'':34}{'packets/s':>12}{'µs a packet and stage':>24}{'× the queues':>14}")
    bare = statistics.median(seconds[next(iter(cases))])
    for name, times in seconds.items():
        median = statistics.median(times)
        cost_us = median / args.packets / STAGES * 1e6
        print(f"{name:34}{args.packets / median:12.0f}{cost_us:24.1f}{median / bare:14.1f}")
    print(f"target: at most {TARGET_US} µs a packet and stage")


if __name__ == "__main__":
    main()
