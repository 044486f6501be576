"""The CPU as a device: PyTorch's operations have run when they return, so nothing ever waits."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import numpy as np
import torch

from engines.device.streams import Event, Stream
from engines.device.transfers import DownloadBuffer


class CpuEvent:
    """An event that has completed."""

    def synchronise(self) -> None:
        """Return at once."""

    def completed(self) -> bool:
        """True."""
        return True


class CpuStream:
    """Runs work at once, on the thread that calls."""

    handle = 0

    def __init__(self, device: CpuDevice):
        self.downloads = DownloadBuffer(device)

    def wait(self, event: Event) -> None:
        """Block the host: it is the one that works; an event of the CPU returns at once."""
        event.synchronise()

    def record(self) -> CpuEvent:
        """An event that has completed."""
        return CpuEvent()

    def use(self) -> contextlib.AbstractContextManager[None]:
        """Does nothing."""
        return contextlib.nullcontext()

    def make_current(self) -> None:
        """Does nothing."""

    def keep_alive(self, tensor: torch.Tensor) -> None:
        """Does nothing: all work has run."""


class CpuDevice:
    """See `engines.device.streams.Device`."""

    name = "cpu"
    torch_device = torch.device("cpu")

    def new_stream(self) -> CpuStream:
        """A stream of its own."""
        return CpuStream(self)

    def legacy_stream_event(self) -> CpuEvent:
        """An event that has completed."""
        return CpuEvent()

    def empty(self, size: int, stream: Stream) -> torch.Tensor:
        """Memory, (size,) uint8, not initialised."""
        return torch.empty(size, dtype=torch.uint8)

    def pinned(self, size: int) -> torch.Tensor:
        """Memory, (size,) uint8; no GPU copies from it, so it need not be page-locked."""
        return torch.empty(size, dtype=torch.uint8)

    def copy(self, to: torch.Tensor, source: torch.Tensor, stream: Stream) -> None:
        """Copy at once."""
        to.copy_(source)

    def download(self, tensors: Mapping[str, torch.Tensor], stream: Stream) -> dict[str, np.ndarray]:
        """Copies of the tensors as NumPy arrays."""
        assert isinstance(stream, CpuStream)
        return stream.downloads.download(tensors, stream)
