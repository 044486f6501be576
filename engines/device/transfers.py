"""Copies between host and device through page-locked memory, and owners of memory that is being copied."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from engines.device.streams import Device, Event, Stream

    # A buffer, allocated at its first use, and the event after the last copy from it.
    _StagingBuffer = tuple[torch.Tensor | None, Event | None]

ALIGNMENT = 256  # bytes, as CUDA's own allocations; wide loads need it


class DownloadBuffer:
    """Page-locked memory through which one stream's results come to the host; grows to the largest."""

    def __init__(self, device: Device):
        self._device = device
        self._memory: torch.Tensor | None = None
        self._lock = threading.Lock()

    def download(self, tensors: Mapping[str, torch.Tensor], stream: Stream) -> dict[str, np.ndarray]:
        """Copy tensors to arrays of the caller's own; the host waits for these copies only."""
        offsets, size = {}, 0
        for name, tensor in tensors.items():
            offsets[name] = size
            size = align_up(size + tensor.nbytes)
        with self._lock:
            # After an error the buffer is given up: copies into it may still run.
            memory, self._memory = self._buffer(size), None
            copies = {}
            for name, tensor in tensors.items():
                part = memory[offsets[name] : offsets[name] + tensor.nbytes]
                copies[name] = part.view(tensor.dtype).view(tensor.shape)
                self._device.copy(copies[name], tensor, stream)
            stream.record().synchronise()
            arrays = {name: copy.numpy().copy() for name, copy in copies.items()}
            self._memory = memory
        return arrays

    def _buffer(self, size: int) -> torch.Tensor:
        if self._memory is None or len(self._memory) < size:
            return self._device.pinned(1 << max(size - 1, 0).bit_length())  # a power of 2, so it grows seldom
        return self._memory


class StagingBuffers:
    """Page-locked memory for uploads to the device: `limit` buffers in turn, shared by all threads.

    A buffer is refilled after the copy from it has run; if that is still to come, the host waits for that one
    copy.
    """

    def __init__(self, device: Device, limit: int = 4):
        self._device = device
        self._buffers: queue.SimpleQueue[_StagingBuffer] = queue.SimpleQueue()
        for _ in range(limit):
            self._buffers.put((None, None))

    def upload(self, fill: Callable[[torch.Tensor], None], to: torch.Tensor, stream: Stream) -> Event:
        """Let `fill` write bytes (n,) into a buffer, and queue a copy of them to `to`, (n,) uint8.

        The host waits for a free buffer if it must, but not for the copy.

        Returns:
            The event after the copy.
        """
        buffer, copied = self._buffers.get()
        # After an error the buffer is dropped, as a copy may still read it; PyTorch keeps its memory until
        # then.
        usable: _StagingBuffer = (None, None)
        try:
            if copied is not None:
                copied.synchronise()
            if buffer is None or len(buffer) < len(to):
                buffer = self._device.pinned(len(to))
            fill(buffer[: len(to)])
            self._device.copy(to, buffer[: len(to)], stream)
            copied = stream.record()
            usable = (buffer, copied)
        finally:
            self._buffers.put(usable)
        return copied


class KeepAlive:
    """Objects whose memory the device copies from, each kept alive until an event has completed.

    Later calls release them. A decoder has few surfaces, so with more than `limit` objects kept, the host
    waits for the oldest event.
    """

    def __init__(self, limit: int = 4):
        self._limit = limit
        self._kept: deque[tuple[Event, Any]] = deque()
        self._lock = threading.Lock()

    def keep(self, owner: Any, until: Event) -> None:
        """Keep `owner` alive until the event, and release the objects whose events have completed."""
        released = []  # dropped after the lock is released, since their finalisers may run any code
        with self._lock:
            self._kept.append((until, owner))
            while self._kept and (len(self._kept) > self._limit or self._kept[0][0].completed()):
                event, kept = self._kept.popleft()
                event.synchronise()
                released.append(kept)

    def __len__(self) -> int:
        return len(self._kept)

    def close(self) -> None:
        """Wait for all events, and release all objects."""
        with self._lock:
            kept, self._kept = self._kept, deque()
        for event, _ in kept:
            event.synchronise()

    def __del__(self) -> None:
        self.close()


def align_up(size: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT
