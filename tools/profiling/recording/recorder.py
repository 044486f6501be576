"""Records what the stages of a run do, to files: their calls, their engines' calls, their stacks.

All of it is written by the threads that work, so it is kept short here: `log` packs and writes, `recorded`
adds up, `trace` draws.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from engines.images.yuv import YuvImage
from engines.loading.engine_calls import EngineCall, Loaded, watch
from pipeline.edges.edge import Item
from pipeline.measurement.tracing import Span, Tracer
from pipeline.operator import RunInfo
from pipeline.packet import Packet
from tools.profiling.recording.event_log import Kind, Log
from tools.profiling.recording.nvtx_ranges import Ranges, ranges
from tools.profiling.recording.stack_sampler import Sampler
from tools.profiling.recording.thread_state import Lane

BLOCKED_NS = 100_000  # shorter waits for room are not worth a span


class Recorder(Tracer):
    """Writes to `folder`, each process of the run to files of its own, while the run goes on.

    Always recorded: when each stage was called, on how many packets and bytes; the calls of engines; by how
    much the process grew as each stage was opened; and, `sample_hz` times a second (0: never), where each
    thread is. With `trace` also which frames each call took, how long they had waited, and when they left
    the graph; and the calls show as NVTX ranges, where the package `nvtx` is installed.

    `active` may be turned off and on while the run goes on, in the process of this object.
    """

    def __init__(self, folder: Path, *, trace: bool = False, sample_hz: float = 0.0):
        self.folder, self.trace, self.sample_hz = folder, trace, sample_hz
        self.active = True

    def begin(self, run: RunInfo) -> None:
        """Begin this process's files, and watch the engines that are loaded from now on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log = Log(self.folder / f"process-{os.getpid()}")
        self._log.name("process", ", ".join(run.sources), time.monotonic_ns())
        self._here = threading.local()
        self._lanes: dict[int, Lane] = {}  # thread: what it works on
        self._ranges: Ranges = ranges(shown=self.trace)
        self._ends = ExitStack()
        self._ends.callback(self._log.close)
        self._ends.enter_context(watch(self))
        if self.sample_hz:
            self._ends.enter_context(Sampler(self, self._log, self._lanes, self.sample_hz))
        self._resident = psutil.Process().memory_info().rss

    def opened(self, stage: str) -> None:
        """Note by how much the process has grown since the stage before."""
        resident = psutil.Process().memory_info().rss
        grown = max(resident - self._resident, 0)
        self._log.add((Kind.OPENED, self._log.name("stage", stage), grown))
        self._resident = resident

    def enter(self, stage: str, worker: int | str) -> None:
        """This thread works for the stage from now on."""
        if self.active:
            lane = self._lane(stage, worker)
            lane.entered_cpu_ns = time.thread_time_ns()
            lane.entered_ns = time.monotonic_ns()
            self._ranges.begin(stage)

    def left(self, span: Span) -> None:
        """Note the call, and with `trace` its frames."""
        lane = self._lane(span.stage, span.worker)
        if not lane.entered_ns:  # it began while this was not active
            return
        lane.entered_ns = 0
        self._ranges.end()
        name = self._log.name
        frames: list[int] = []
        packets = nbytes = 0
        for queued_ns, item in span.taken:
            if isinstance(item, tuple):
                nbytes += _joined_bytes(item)
                item = item[0]  # of all of them, the frame is the same
            elif isinstance(item, Packet):
                nbytes += payload_bytes(item)
            else:
                continue
            packets += 1
            if self.trace:
                frames += (name("stream", item.stream), item.seq, queued_ns)
        given = 0
        for item in span.results:
            if isinstance(item, Packet):
                given += 1
                if not span.taken:  # a source; what it gives is what it handles
                    nbytes += payload_bytes(item)
                    if self.trace:
                        frames += (name("stream", item.stream), item.seq, -1)
        self._log.add(
            (Kind.CALL, lane.index, span.start_ns, span.end_ns, span.cpu_ns, packets, given, nbytes, *frames)
        )

    def handed_on(self, stage: str, worker: int | str, since_ns: int) -> None:
        """Note, with `trace`, that there was no room behind the stage."""
        if self.trace and self.active:
            now = time.monotonic_ns()
            if now - since_ns > BLOCKED_NS:
                self._log.add((Kind.BLOCKED, self._lane(stage, worker).index, since_ns, now))

    def finished(self, stage: str, items: Sequence[Item]) -> None:
        """Note, with `trace`, which frames have left the graph."""
        if self.trace and self.active:
            name = self._log.name
            frames = [
                number
                for item in items
                if isinstance(item, Packet)
                for number in (name("stream", item.stream), item.seq)
            ]
            if frames:
                self._log.add((Kind.FINISHED, name("end", stage), time.monotonic_ns(), *frames))

    def end(self) -> None:
        """Write what is left."""
        self._ends.close()

    def engine_entered(self, engine: Loaded) -> None:
        """This thread is inside an engine from now on, if it works for a stage."""
        lane = self._entered()
        if lane:
            lane.in_engine = True
            self._ranges.begin(engine.model)

    def engine_left(self, call: EngineCall) -> None:
        """Note the call for the stage in whose call it was made; those of nobody are not counted."""
        lane = self._entered()
        if not lane or not lane.in_engine:
            return
        lane.in_engine = False
        self._ranges.end()
        copied = -1 if call.copied is None else call.copied
        self._log.add(
            (Kind.ENGINE, lane.index, self._log.name("engine", *call.engine), call.start_ns, call.end_ns,
             call.making_ns, call.items, call.bytes_in, call.bytes_out, copied,
             *(moment for times in call.device_ns for moment in times))
        )  # fmt: skip

    def _entered(self) -> Lane | None:
        """What this thread works on just now."""
        lane: Lane | None = getattr(self._here, "lane", None)
        return lane if lane and lane.entered_ns else None

    def _lane(self, stage: str, worker: int | str) -> Lane:
        """What this thread works on, as long as it lives."""
        lane: Lane | None = getattr(self._here, "lane", None)
        if lane is None:
            lane = Lane.of_this_thread(stage, self._log.name("lane", stage, worker))
            self._here.lane = lane
            self._lanes[threading.get_ident()] = lane
        return lane


def payload_bytes(packet: Packet) -> int:
    """Of the packet's picture, in planes or as RGB, and of the arrays of its instances."""
    return sum(array.nbytes for array in _arrays(packet))


def _joined_bytes(packets: Sequence[Packet]) -> int:
    """The same, of packets that share most of what they hold."""
    return sum({id(array): array.nbytes for packet in packets for array in _arrays(packet)}.values())


def _arrays(packet: Packet) -> list[np.ndarray]:
    picture: Any = packet.picture
    arrays: list[np.ndarray] = []
    if isinstance(picture, np.ndarray):
        arrays.append(picture)
    elif isinstance(picture, YuvImage):
        arrays += (picture.y, picture.u, picture.v)
    if packet.instances is not None:
        arrays += packet.instances.fields.values()
    return arrays
