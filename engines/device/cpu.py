"""The CPU as a device: torch's operations are done when they return, so nothing ever waits."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import numpy as np
import torch

from engines.device.streams import Event, Stream
from engines.device.transfers import DownloadBuffer


class CpuEvent:
    """Has passed."""

    def synchronise(self) -> None:
        """Return at once."""

    def completed(self) -> bool:
        """True."""
        return True


class CpuStream:
    """The thread that calls."""

    handle = 0

    def __init__(self, device: CpuDevice):
        self.downloads = DownloadBuffer(device)

    def wait(self, event: Event) -> None:
        """Nothing to wait for, unless the event is another device's."""
        event.synchronise()

    def record(self) -> CpuEvent:
        """An event that has passed."""
        return CpuEvent()

    def use(self) -> contextlib.AbstractContextManager[None]:
        """Changes nothing."""
        return contextlib.nullcontext()

    def make_current(self) -> None:
        """Changes nothing."""

    def keep_alive(self, tensor: torch.Tensor) -> None:
        """Nothing runs any more."""


class CpuDevice:
    """See `engines.device.streams.Device`."""

    name = "cpu"
    torch_device = torch.device("cpu")

    def new_stream(self) -> CpuStream:
        """A stream of its own."""
        return CpuStream(self)

    def legacy_stream_event(self) -> CpuEvent:
        """An event that has passed."""
        return CpuEvent()

    def empty(self, size: int, stream: Stream) -> torch.Tensor:
        """Memory (size,) uint8."""
        return torch.empty(size, dtype=torch.uint8)

    def pinned(self, size: int) -> torch.Tensor:
        """Memory (size,) uint8; all of it is the host's."""
        return torch.empty(size, dtype=torch.uint8)

    def copy(self, to: torch.Tensor, source: torch.Tensor, stream: Stream) -> None:
        """Copy at once."""
        to.copy_(source)

    def download(self, tensors: Mapping[str, torch.Tensor], stream: Stream) -> dict[str, np.ndarray]:
        """Tensors as arrays of their own."""
        assert isinstance(stream, CpuStream)
        return stream.downloads.download(tensors, stream)
