"""Operators for which the right records are known: they compute, wait, take memory, or run a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import toys

from engines.loading.load import load_engine
from pipeline.graph import Graph, check_graph
from pipeline.operator import Operator, RunInfo
from pipeline.packet import Instances, Packet
from tests.support.models.toy_models import contract


class Pictures(toys.Numbers):
    """`Numbers` whose packets have a picture of 40x30."""

    def read(self, stream: str, uri: str) -> Iterator[Packet]:
        for packet in super().read(stream, uri):
            yield packet.replace(picture=np.zeros((30, 40, 3), np.uint8))


class TwoBoxes(Operator):
    """Gives each packet two instances."""

    provides = ("boxes",)

    def process(self, packets: list[Packet]) -> list[Packet]:
        return [p.replace(instances=Instances(boxes=np.zeros((2, 4), np.float32))) for p in packets]


class Compute(Operator):
    """Computes for `ms` of processor time a call, in Python."""

    def __init__(self, ms: float):
        self.ms = ms

    def process(self, packets: list[Packet]) -> list[Packet]:
        end = time.thread_time() + self.ms / 1e3
        while time.thread_time() < end:
            sum(range(100))
        return packets


class Waits(Operator):
    """Waits `ms` inside Python's standard library, for an event that never comes."""

    def __init__(self, ms: float):
        self.ms, self.never = ms, threading.Event()

    def process(self, packets: list[Packet]) -> list[Packet]:
        self.never.wait(self.ms / 1e3)
        return packets


class TakesMemory(Operator):
    """Takes `mb` of memory when it is opened."""

    def __init__(self, mb: int):
        self.mb = mb

    def open(self, run: RunInfo) -> None:
        self.kept = np.ones(self.mb * 1_000_000, np.uint8)

    def process(self, packets: list[Packet]) -> list[Packet]:
        return packets


class Infer(Operator):
    """Runs the toy model in `file` on one crop a packet, and once when it is opened."""

    def __init__(self, file: str):
        self.file = Path(file)

    def open(self, run: RunInfo) -> None:
        self.contract = contract("simcc")
        self.engine = load_engine(self.contract, path=self.file)
        self.infer(1)

    def process(self, packets: list[Packet]) -> list[Packet]:
        self.infer(len(packets))
        return packets

    def infer(self, crops: int) -> None:
        width, height = self.contract.input.size
        self.engine.run({"in": np.zeros((crops, 3, height, width), np.float32)})

    def close(self) -> None:
        self.engine.close()


REGISTRY = {
    **toys.REGISTRY, "pictures": Pictures, "two_boxes": TwoBoxes, "compute": Compute, "waits": Waits,
    "takes_memory": TakesMemory, "infer": Infer,
}  # fmt: skip


def graph(source: str = "numbers", **nodes: dict[str, object]) -> Graph:
    """A graph of these nodes behind a source, in a chain unless a node has its own `after`."""
    spec: dict[str, dict[str, object]] = {source: {"op": source}}
    last = source
    for name, node in nodes.items():
        spec[name] = {"after": last, **node}
        last = name
    return check_graph({"name": "toy", "graph": spec}, REGISTRY)
