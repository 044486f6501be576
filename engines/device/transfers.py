"""Copies between host and device through page-locked memory, and what must stay alive until they have run."""

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

    _Buffer = tuple[torch.Tensor | None, Event | None]  # made when needed; and the last copy from it

ALIGNMENT = 256  # bytes; wide reads want it, and CUDA's own allocations have it


class DownloadBuffer:
    """Page-locked memory of one stream, through which results come to the host; it grows to the largest."""

    def __init__(self, device: Device):
        self._device = device
        self._memory: torch.Tensor | None = None
        self._lock = threading.Lock()

    def download(self, tensors: Mapping[str, torch.Tensor], stream: Stream) -> dict[str, np.ndarray]:
        """Arrays of the caller's own; the host waits for the event behind these copies, and no other."""
        places, size = {}, 0
        for name, tensor in tensors.items():
            places[name] = size
            size = align_up(size + tensor.nbytes)
        with self._lock:
            memory, self._memory = self._room(size), None  # lost if this fails, since copies may still run
            landed = {}
            for name, tensor in tensors.items():
                place = memory[places[name] : places[name] + tensor.nbytes]
                landed[name] = place.view(tensor.dtype).view(tensor.shape)
                self._device.copy(landed[name], tensor, stream)
            stream.record().synchronise()
            arrays = {name: place.numpy().copy() for name, place in landed.items()}
            self._memory = memory
        return arrays

    def _room(self, size: int) -> torch.Tensor:
        if self._memory is None or len(self._memory) < size:
            return self._device.pinned(1 << max(size - 1, 0).bit_length())  # seldom grows again
        return self._memory


class StagingBuffers:
    """Page-locked memory through which pictures go to the device: `limit` buffers in turn, of any thread.

    A buffer is refilled once the copy from it has run; the host waits for that one copy if it must.
    """

    def __init__(self, device: Device, limit: int = 4):
        self._device = device
        self._buffers: queue.SimpleQueue[_Buffer] = queue.SimpleQueue()
        for _ in range(limit):
            self._buffers.put((None, None))

    def upload(self, fill: Callable[[torch.Tensor], None], to: torch.Tensor, stream: Stream) -> Event:
        """Let `fill` write bytes (n,) and copy them to `to` (n,) uint8; the event after which they are there.

        The host waits only for a buffer, not for the copy.
        """
        buffer, copied = self._buffers.get()
        usable: _Buffer = (None, None)  # if this fails a copy may still run: PyTorch keeps the memory as long
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
    """Objects that must live until the device has passed an event: others' memory that it copies from.

    They are let go at later calls. A decoder has few surfaces to give, so with more than `limit` kept the
    host waits for the oldest.
    """

    def __init__(self, limit: int = 4):
        self._limit = limit
        self._kept: deque[tuple[Event, Any]] = deque()
        self._lock = threading.Lock()

    def keep(self, owner: Any, until: Event) -> None:
        """Keep `owner` alive; let go of those whose events have passed."""
        gone = []  # dropped outside of the lock: what they do then is theirs
        with self._lock:
            self._kept.append((until, owner))
            while self._kept and (len(self._kept) > self._limit or self._kept[0][0].completed()):
                event, kept = self._kept.popleft()
                event.synchronise()
                gone.append(kept)

    def __len__(self) -> int:
        return len(self._kept)

    def close(self) -> None:
        """Wait for all of them, and let go."""
        with self._lock:
            kept, self._kept = self._kept, deque()
        for event, _ in kept:
            event.synchronise()

    def __del__(self) -> None:
        self.close()


def align_up(size: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT
