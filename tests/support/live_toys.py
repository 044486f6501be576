"""A camera for tests of the service: it gives frames at a rate and can be unplugged for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from toys import Slow

from pipeline.errors import SourceError
from pipeline.graph import Graph, check_graph
from pipeline.operator import Operator, Source
from pipeline.packet import Event, Instances, Packet


class ToyCamera(Source):
    """Gives `FPS` frames a second; `FPS@FRAMES` ends; `FPS:FILE` is lost as long as the file exists."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def stop(self) -> None:
        self.stopped.set()

    def read(self, stream: str, uri: str) -> Iterator[Packet | Event]:
        if uri == "broken":
            raise SourceError("cannot read broken")
        if "://" in uri:  # a camera that does not answer
            self.stopped.wait()
            return
        rate, _, unplugged = uri.partition(":")
        rate, _, frames = rate.partition("@")
        seq = 0
        while not self.stopped.wait(1 / float(rate)) and seq != int(frames or -1):
            if unplugged and Path(unplugged).exists():
                yield from self.lose(stream, Path(unplugged))
            now = time.time_ns()
            yield Packet(stream, seq, now, now, (64, 48))
            seq += 1

    def lose(self, stream: str, unplugged: Path) -> Iterator[Event]:
        start = time.monotonic()
        self.count("outages")
        yield Event(stream, "lost", time.time_ns(), {"reason": "unplugged"})
        while unplugged.exists() and not self.stopped.wait(0.01):
            pass
        away_s = time.monotonic() - start
        self.count("outage_ms", round(away_s * 1e3))
        yield Event(stream, "back", time.time_ns(), {"away_s": away_s}, resets=True)


class Two(Operator):
    """Finds two animals in each frame."""

    provides = ("scores",)

    def process(self, packets: list[Packet]) -> list[Packet]:
        return [p.replace(instances=Instances(scores=np.ones(2, np.float32))) for p in packets]


def camera_graph(slow_ms: float = 1) -> Graph:
    nodes = {
        "camera": {"op": "camera"},
        "two": {"op": "two", "after": "camera"},
        "slow": {"op": "slow", "ms": slow_ms, "after": "two"},
    }
    return check_graph({"name": "toy", "graph": nodes}, {"camera": ToyCamera, "two": Two, "slow": Slow})
