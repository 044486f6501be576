"""The CPU as a device whose copies run late, as a GPU's may: only when the host waits for an event after them."""

from __future__ import annotations

from collections import deque
from ctypes import c_uint8

import numpy as np
import torch

from engines.device.cpu import CpuDevice, CpuStream


class LateEvent:
    """The end of the copies that were queued on a stream when it was recorded."""

    def __init__(self, stream: LateStream):
        self._stream, self._until = stream, stream.queued

    def synchronise(self) -> None:
        while self._stream.run < self._until:
            self._stream.run_one()

    def completed(self) -> bool:
        return self._stream.run >= self._until


class LateStream(CpuStream):
    def __init__(self, device: LateDevice):
        super().__init__(device)
        self.copies: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
        self.queued = self.run = 0

    def record(self) -> LateEvent:
        return LateEvent(self)

    def run_one(self) -> None:
        to, source = self.copies.popleft()
        to.copy_(source)
        self.run += 1


class LateDevice(CpuDevice):
    def new_stream(self) -> LateStream:
        return LateStream(self)

    def copy(self, to: torch.Tensor, source: torch.Tensor, stream: LateStream) -> None:
        """Queue a copy. Like a GPU, it knows the source's address only, and keeps nothing alive."""
        reach = 1 + sum((n - 1) * step for n, step in zip(source.shape, source.stride(), strict=True))
        memory = np.frombuffer((c_uint8 * reach).from_address(source.data_ptr()), np.uint8)
        stream.copies.append((to, torch.from_numpy(memory).as_strided(source.shape, source.stride())))
        stream.queued += 1
