"""Operators with a weakness that a profile must find, and a source without an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
from toys import packet

from engines.assets.model_files import find_model
from engines.loading.load import load_engine
from pipeline.operator import Operator, RunInfo, Source
from pipeline.packet import Packet


class Endless(Source):
    """Packets without end: for the uri `5` one every 5 ms, for `0` as fast as they are taken."""

    provides = ("image",)

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def read(self, stream: str, uri: str) -> Iterator[Packet]:
        for seq in count():
            if float(uri):
                time.sleep(float(uri) / 1e3)
            if self._stopped.is_set():
                return
            yield packet(stream, seq)

    def stop(self) -> None:
        self._stopped.set()


class Sleeps(Operator):
    """Sleeps `ms` for each packet."""

    def __init__(self, ms: float = 20):
        self.ms = ms

    def process(self, packets: list[Packet]) -> list[Packet]:
        time.sleep(self.ms * len(packets) / 1e3)
        return packets


class Burns(Operator):
    """Computes in Python for `ms` of processor time for each packet."""

    def __init__(self, ms: float = 5):
        self.ms = ms

    def process(self, packets: list[Packet]) -> list[Packet]:
        end = time.thread_time() + self.ms * len(packets) / 1e3
        while time.thread_time() < end:
            sum(range(1000))
        return packets


class BurnsInOrder(Burns):
    per_stream = True


class Blocks(Operator):
    """A sink whose receiver takes a packet only every `ms`."""

    def __init__(self, ms: float = 20):
        self.ms = ms
        self.taken = threading.Semaphore(0)
        self.closed = threading.Event()

    def open(self, run: RunInfo) -> None:
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while not self.closed.wait(self.ms / 1e3):
            self.taken.release()

    def process(self, packets: list[Packet]) -> list[Packet]:
        self.taken.acquire()
        return packets

    def close(self) -> None:
        self.closed.set()


class Stuck(Operator):
    """A sink whose receiver takes nothing until `freed` is set."""

    freed = threading.Event()

    def process(self, packets: list[Packet]) -> list[Packet]:
        self.freed.wait()
        return packets


class NeedsLock(Operator):
    """For each packet takes a lock that another thread holds nearly all of the time."""

    def __init__(self, ms: float = 20):
        self.ms = ms
        self.lock = threading.Lock()
        self.wanted = threading.Semaphore(0)
        self.held = threading.Semaphore(0)
        self.closed = False

    def open(self, run: RunInfo) -> None:
        threading.Thread(target=self._hold, daemon=True).start()

    def _hold(self) -> None:
        while not self.closed:
            with self.lock:
                self.held.release()
                time.sleep(self.ms / 1e3)
            self.wanted.acquire()

    def process(self, packets: list[Packet]) -> list[Packet]:
        self.held.acquire()
        with self.lock:
            self.wanted.release()
        return packets

    def close(self) -> None:
        self.closed = True
        self.wanted.release()


class RunsModel(Operator):
    """Runs a model on `times` inputs of zeros for each packet."""

    def __init__(self, model: str, times: int = 2, backend: str = "auto"):
        self.model, self.times, self.backend = model, times, backend

    def open(self, run: RunInfo) -> None:
        contract, _ = find_model(self.model)
        self.engine = load_engine(contract, path=Path(self.model), backend=self.backend)  # type: ignore[arg-type]
        self.input = contract.input

    def process(self, packets: list[Packet]) -> list[Packet]:
        width, height = self.input.size
        zeros = np.zeros((len(packets) * self.times, 3, height, width), np.float32)
        self.engine.run({self.input.name: zeros})
        return packets

    def close(self) -> None:
        self.engine.close()
