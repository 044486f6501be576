"""CUDA graphs: work that is the same at each run is recorded once and then launched by one call."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Protocol

from engines.device.cuda_bindings import call, library
from engines.device.streams import Device, Stream
from engines.errors import EngineError

Enqueue = Callable[[Stream], None]  # queues work on a stream

ATTEMPTS = 3  # to record a graph: a call of another library at the same moment can make one fail

log = logging.getLogger("posestream.device")


class RecordedWork(Protocol):
    """Recorded work, with the addresses and sizes that it had when it was recorded."""

    def launch(self, stream: Stream) -> None:
        """Queue it on a stream; the host does not wait."""


class CudaGraph:
    """A CUDA graph, recorded with CUDA's own functions.

    PyTorch's `torch.cuda.graph` will not do: it redirects this thread's allocations to a private pool, and
    they stay redirected if recording fails.
    """

    def __init__(self, enqueue: Enqueue, stream: Stream):
        """Record the work that `enqueue` queues; it does not run.

        Args:
            enqueue: queues the work.
            stream: on which it is queued; nothing else uses this stream meanwhile.

        Raises:
            EngineError: the work waits or allocates, so CUDA cannot record it; or `enqueue` raised it.
        """
        # In this mode other threads may call anything meanwhile: they use streams of their own.
        mode = library("runtime").cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("runtime", "cudaStreamBeginCapture", stream.handle, mode)
        try:
            enqueue(stream)
        finally:
            # Also after an error: until the capture ends, the stream goes on recording.
            graph = call("runtime", "cudaStreamEndCapture", stream.handle)
        try:
            self._executable = call("runtime", "cudaGraphInstantiate", graph, 0)
        finally:
            call("runtime", "cudaGraphDestroy", graph)
        weakref.finalize(self, call, "runtime", "cudaGraphExecDestroy", self._executable).atexit = False

    def launch(self, stream: Stream) -> None:
        """Queue it on a stream; the host does not wait."""
        call("runtime", "cudaGraphLaunch", self._executable, stream.handle)


class CudaGraphs:
    """Runs work of several kinds: the first run of a kind is queued directly, later runs replay its graph.

    The graph is recorded at the second run, because libraries load code and allocate memory in the first. If
    that fails three times, nothing more is recorded: a warning is logged, and runs without a graph are queued
    directly from then on.

    Graphs are recorded on a stream of their own, never on the one that runs them. That one has tensors, and
    when another thread drops such a tensor, PyTorch records an event on the stream and later queries it. An
    event that is part of a recording must not be queried: the query fails, and so does the recording.

    Args:
        name: the name of the engine, for the log.
        device: where the work runs.
        enabled: whether to record at all.
        record: makes the recorded work; the tests have no GPU and pass their own.
    """

    def __init__(
        self,
        name: str,
        device: Device,
        *,
        enabled: bool,
        record: Callable[[Enqueue, Stream], RecordedWork] = CudaGraph,
    ):
        self._name, self._record = name, record
        self._attempts = ATTEMPTS if enabled else 0
        self._recording = device.new_stream() if enabled else None
        self._seen: set[int] = set()
        self.recorded: dict[int, RecordedWork] = {}

    def run(self, kind: int, enqueue: Enqueue, stream: Stream, *, fixed: bool = True) -> None:
        """Queue the work of a kind on a stream.

        Args:
            kind: identifies work that is the same each time, such as a batch size.
            enqueue: queues the work on a stream: on `stream`, or on another one where it is recorded.
            stream: where it runs.
            fixed: whether the work is the same each time; if not, it is never recorded.
        """
        if self._recording and kind not in self.recorded and kind in self._seen and self._attempts and fixed:
            self._try_to_record(kind, enqueue, self._recording)
        self._seen.add(kind)
        if kind in self.recorded:
            self.recorded[kind].launch(stream)
        else:
            enqueue(stream)

    def forget(self, kinds: set[int]) -> None:
        """Free the graphs of these kinds; the caller makes sure that none of them is still running."""
        self._seen -= kinds
        for kind in kinds:
            self.recorded.pop(kind, None)

    def _try_to_record(self, kind: int, enqueue: Enqueue, stream: Stream) -> None:
        try:
            self.recorded[kind] = self._record(enqueue, stream)
        except EngineError as error:
            self._attempts -= 1
            if not self._attempts:
                log.warning(
                    "%s: CUDA cannot record a graph of it, so every run is queued call by call: %s",
                    self._name,
                    error,
                )
