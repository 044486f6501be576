"""Record what the stages of a run do: their calls, their engines' calls, their stacks.

The working threads themselves record, so as little as possible happens here: `event_log` writes to disk,
`recorded` adds up, `trace` makes the trace.
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
from pipeline.measurement.tracing import Span, Tracer
from pipeline.operator import RunInfo
from pipeline.packet import Item, Packet
from tools.profiling.recording.event_log import EventLog, Kind
from tools.profiling.recording.nvtx_ranges import Ranges, make_ranges
from tools.profiling.recording.stack_sampler import Sampler
from tools.profiling.recording.thread_state import ThreadState

BLOCKED_NS = 100_000  # shorter waits for room are not worth a span


class Recorder(Tracer):
    """Writes to `folder` during the run; each process of the run has files of its own.

    Always recorded: when each stage was called, and with how many packets and bytes; the calls of engines; by
    how much the process grew while each stage was opened; and, `sample_hz` times a second (0: never), where
    each thread is. With `trace` also: which frames each call took, how long they had waited, and when they
    left the graph; and, if the package `nvtx` is installed, the calls as NVTX ranges.

    `active` may be turned off and on during the run, in the process of this object only.
    """

    def __init__(self, folder: Path, *, trace: bool = False, sample_hz: float = 0.0):
        self.folder, self.trace, self.sample_hz = folder, trace, sample_hz
        self.active = True

    def begin(self, run: RunInfo) -> None:
        """Begin the files of this process, and watch the engines that are loaded from now on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log = EventLog(self.folder / f"process-{os.getpid()}")
        self._log.name("process", ", ".join(run.sources), time.monotonic_ns())
        self._local = threading.local()  # .state: of this thread
        self._threads: dict[int, ThreadState] = {}  # by thread id
        self._ranges: Ranges = make_ranges(wanted=self.trace)
        self._contexts = ExitStack()
        self._contexts.callback(self._log.close)
        self._contexts.enter_context(watch(self))
        if self.sample_hz:
            self._contexts.enter_context(Sampler(self, self._log, self._threads, self.sample_hz))
        self._resident = psutil.Process().memory_info().rss

    def opened(self, stage: str) -> None:
        """Record by how much the process has grown since the previous stage was opened."""
        resident = psutil.Process().memory_info().rss
        grown = max(resident - self._resident, 0)
        self._log.add((Kind.OPENED, self._log.name("stage", stage), grown))
        self._resident = resident

    def enter(self, stage: str, worker: int | str) -> None:
        """A call of the stage begins on this thread."""
        if self.active:
            thread = self._this_thread(stage, worker)
            thread.call_start_cpu_ns = time.thread_time_ns()
            thread.call_start_ns = time.monotonic_ns()
            self._ranges.begin(stage)

    def left(self, span: Span) -> None:
        """Record the call, and with `trace` its frames."""
        thread = self._this_thread(span.stage, span.worker)
        if not thread.call_start_ns:  # the call began while `active` was False
            return
        thread.call_start_ns = 0
        self._ranges.end()
        name = self._log.name
        frames: list[int] = []
        packets = nbytes = 0
        for queued_ns, item in span.taken:
            if isinstance(item, tuple):
                nbytes += _joined_bytes(item)
                item = item[0]  # joined packets are of the same frame
            elif isinstance(item, Packet):
                nbytes += payload_bytes(item)
            else:
                continue
            packets += 1
            if self.trace:
                frames += (name("stream", item.stream), item.seq, queued_ns)
        results = 0
        for item in span.results:
            if isinstance(item, Packet):
                results += 1
                if not span.taken:  # a source takes nothing, so count what it gives
                    nbytes += payload_bytes(item)
                    if self.trace:
                        frames += (name("stream", item.stream), item.seq, -1)
        self._log.add(
            (
                Kind.CALL,
                thread.lane,
                span.start_ns,
                span.end_ns,
                span.cpu_ns,
                packets,
                results,
                nbytes,
                *frames,
            )
        )

    def handed_on(self, stage: str, worker: int | str, since_ns: int) -> None:
        """With `trace`, record that the stage waited for room on the edges behind it."""
        if self.trace and self.active:
            now = time.monotonic_ns()
            if now - since_ns > BLOCKED_NS:
                self._log.add((Kind.BLOCKED, self._this_thread(stage, worker).lane, since_ns, now))

    def finished(self, stage: str, items: Sequence[Item]) -> None:
        """With `trace`, record which frames have left the graph."""
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
        """Stop sampling and watching, and write what is left."""
        self._contexts.close()

    def engine_entered(self, engine: Loaded) -> None:
        """A call of an engine begins; it counts if this thread is inside a call of a stage."""
        thread = self._inside_call()
        if thread:
            thread.in_engine = True
            self._ranges.begin(engine.model)

    def engine_left(self, call: EngineCall) -> None:
        """Record the engine's call for the stage that made it; calls outside of stages do not count."""
        thread = self._inside_call()
        if not thread or not thread.in_engine:
            return
        thread.in_engine = False
        self._ranges.end()
        copied = -1 if call.copied is None else call.copied
        self._log.add(
            (Kind.ENGINE, thread.lane, self._log.name("engine", *call.engine), call.start_ns, call.end_ns,
             call.making_ns, call.items, call.bytes_in, call.bytes_out, copied,
             *(moment for times in call.device_ns for moment in times))
        )  # fmt: skip

    def _inside_call(self) -> ThreadState | None:
        """The state of this thread, if it is inside a call of a stage."""
        state: ThreadState | None = getattr(self._local, "state", None)
        return state if state and state.call_start_ns else None

    def _this_thread(self, stage: str, worker: int | str) -> ThreadState:
        """The state of this thread, which works for the same stage as long as it lives."""
        state: ThreadState | None = getattr(self._local, "state", None)
        if state is None:
            state = ThreadState.of_this_thread(stage, self._log.name("lane", stage, worker))
            self._local.state = state
            self._threads[threading.get_ident()] = state
        return state


def payload_bytes(packet: Packet) -> int:
    """Bytes of a packet's picture (RGB or YUV planes) and of the arrays of its instances."""
    return sum(array.nbytes for array in _arrays(packet))


def _joined_bytes(packets: Sequence[Packet]) -> int:
    """The same for joined packets, which share arrays: each array counts once."""
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
