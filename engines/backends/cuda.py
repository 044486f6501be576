"""CUDA memory and streams, on the primary context of the device, which PyTorch uses too."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from engines.errors import EngineError
from engines.gpu import runtime

ANCHOR_EVERY_NS = 5_000_000_000  # CUDA tells times in float32 ms, which after 8 s are right to 1 µs only
ANCHOR_TRIES = 5


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime; what it gives, if anything.

    Raises:
        EngineError: CUDA refuses, with its reason.
    """
    cudart = runtime()
    error, *given = getattr(cudart, name)(*arguments)
    if error:
        _, reason = cudart.cudaGetErrorString(error)
        raise EngineError(f"{name}: {reason.decode()} (CUDA error {int(error)})")
    return given[0] if given else None


class Stream:
    """Work that the device does in order, beside that of other streams."""

    def __init__(self) -> None:
        # Without the flag it would wait for the legacy default stream, which any library may use.
        self.handle = int(call("cudaStreamCreateWithFlags", runtime().cudaStreamNonBlocking))

    def synchronise(self) -> None:
        """Wait, on the host, for all that was given to it."""
        call("cudaStreamSynchronize", self.handle)

    def close(self) -> None:
        """Give it back, once its work is done."""
        call("cudaStreamDestroy", self.handle)


class Buffer:
    """Memory of one size on the device and, page-locked so that copies run beside other work, on the host."""

    def __init__(self, size: int):
        self.size = size
        self.device = int(call("cudaMalloc", size))
        self._address = int(call("cudaHostAlloc", size, runtime().cudaHostAllocDefault))
        self._bytes = (ctypes.c_byte * size).from_address(self._address)

    def host(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The host's memory, from its start, as an array; valid until the next use."""
        return np.ndarray(shape, dtype, memoryview(self._bytes))

    def upload(self, size: int, stream: Stream) -> None:
        """Copy from the host to the device, as part of a stream."""
        kind = runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        call("cudaMemcpyAsync", self.device, self._address, size, kind, stream.handle)

    def download(self, size: int, stream: Stream) -> None:
        """Copy from the device to the host, as part of a stream."""
        kind = runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        call("cudaMemcpyAsync", self._address, self.device, size, kind, stream.handle)

    def close(self) -> None:
        """Give it back; no stream may use it any more."""
        call("cudaFree", self.device)
        call("cudaFreeHost", self._address)


class DeviceClock:
    """Tells when work on a stream began and ended, in ns of the host's monotonic clock.

    CUDA only tells how much later one event was than another. One whose moment the host knows, since it
    waited for it on an idle stream, anchors all others; it is taken anew now and then, since clocks drift.
    """

    def __init__(self, stream: Stream, clock: Callable[[], int] = time.monotonic_ns):
        self._stream, self._clock = stream, clock
        self._begin, self._end, self._anchor, self._spare = (call("cudaEventCreate") for _ in range(4))
        self._take_anchor()

    def begin(self) -> None:
        """What is given to the stream from now on is measured."""
        call("cudaEventRecord", self._begin, self._stream.handle)

    def end(self) -> None:
        """… until here."""
        call("cudaEventRecord", self._end, self._stream.handle)

    def measured(self) -> tuple[int, int]:
        """Begin and end of what was measured last; the stream must have been waited for."""
        times = (self._time(self._begin), self._time(self._end))
        if self._clock() - self._anchored_ns > ANCHOR_EVERY_NS:
            self._take_anchor()
        return times

    def close(self) -> None:
        """Give back the events."""
        for event in (self._begin, self._end, self._anchor, self._spare):
            call("cudaEventDestroy", event)

    def _time(self, event: Any) -> int:
        return self._anchored_ns + round(call("cudaEventElapsedTime", self._anchor, event) * 1e6)

    def _take_anchor(self) -> None:
        """Of several tries the one whose moment is known best; what lies between was seen by both clocks."""
        self._stream.synchronise()
        best = None
        for _ in range(ANCHOR_TRIES):
            before = self._clock()
            call("cudaEventRecord", self._spare, self._stream.handle)
            call("cudaEventSynchronize", self._spare)
            took = self._clock() - before
            if best is None or took < best:
                best = took
                self._anchored_ns = before + took // 2
                self._anchor, self._spare = self._spare, self._anchor
