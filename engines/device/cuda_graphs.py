"""CUDA graphs: work that is the same each time is recorded once, and handed in by one call from then on."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Protocol

from engines.device.gpus import call, runtime
from engines.device.streams import Stream
from engines.errors import EngineError

Enqueue = Callable[[], None]

log = logging.getLogger("posestream.device")


class Recorded(Protocol):
    """Work that was recorded, with the addresses and sizes that it had then."""

    def launch(self, stream: Stream) -> None:
        """Hand it in; the host does not wait."""


class Graph:
    """A graph of CUDA, recorded by its own functions.

    PyTorch's would give this thread's allocations a pool of their own meanwhile, and go on with that where
    the recording fails.
    """

    def __init__(self, enqueue: Enqueue, stream: Stream):
        """Record what `enqueue` gives to the stream; none of it runs.

        Raises:
            EngineError: it cannot be recorded, as it waits or allocates; or as `enqueue`.
        """
        # What other threads do meanwhile does not matter: they have streams of their own.
        mode = runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("cudaStreamBeginCapture", stream.handle, mode)
        try:
            enqueue()
        finally:
            graph = call("cudaStreamEndCapture", stream.handle)  # in any case, else the stream records on
        try:
            self._work = call("cudaGraphInstantiate", graph, 0)
        finally:
            call("cudaGraphDestroy", graph)
        weakref.finalize(self, call, "cudaGraphExecDestroy", self._work).atexit = False

    def launch(self, stream: Stream) -> None:
        """Hand it in; the host does not wait."""
        call("cudaGraphLaunch", self._work, stream.handle)


class Graphs:
    """Hands in work of several kinds: each as it is at first, recorded at its second use, replayed since.

    The first use is never recorded, since libraries load and set up what they need then. If one kind cannot
    be recorded, all are handed in as they are from then on, which is said in the log.

    Args:
        name: of what works, for the log.
        wanted: whether to record at all.
        record: makes the recorded work; tests have no GPU.
    """

    def __init__(self, name: str, *, wanted: bool, record: Callable[[Enqueue, Stream], Recorded] = Graph):
        self._name, self._wanted, self._record = name, wanted, record
        self._seen: set[int] = set()
        self.recorded: dict[int, Recorded] = {}

    def run(self, kind: int, enqueue: Enqueue, stream: Stream, *, fixed: bool = True) -> None:
        """Hand in the work of this kind; `enqueue` does so as it is. Unless `fixed`, it differs each time."""
        if kind not in self.recorded and kind in self._seen and self._wanted and fixed:
            self._try(kind, enqueue, stream)
        self._seen.add(kind)
        if kind in self.recorded:
            self.recorded[kind].launch(stream)
        else:
            enqueue()

    def forget(self, kinds: set[int]) -> None:
        """Free what was recorded of these kinds; none of it may run any more."""
        self._seen -= kinds
        for kind in kinds:
            self.recorded.pop(kind, None)

    def _try(self, kind: int, enqueue: Enqueue, stream: Stream) -> None:
        try:
            self.recorded[kind] = self._record(enqueue, stream)
        except EngineError as error:
            self._wanted = False
            log.warning("%s: no CUDA graph of it, each run is handed in as it is: %s", self._name, error)
