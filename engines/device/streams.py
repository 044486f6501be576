"""Devices, their streams and events, as everything that works on a device sees them.

A stream is work that a device does in order, beside that of other streams. The host only hands it in; where
work of one stream needs that of another, it waits for an event on the device, never on the host.

    read after write   a stream waits for the event behind what it reads (`DeviceImage.ready`)
    write after read   a stream waits for the events of the last readers of what it overwrites (`Surface`)
    freed too early    a stream that works on memory which another one has allocated keeps it (`Stream.keep`)
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


class Event(Protocol):
    """A point in a stream's work."""

    def synchronise(self) -> None:
        """Make the host wait until it has passed; other threads of Python go on meanwhile."""

    def completed(self) -> bool:
        """Whether it has passed; without waiting."""


class Stream(Protocol):
    """Work that the device does in order, beside that of other streams."""

    handle: int  # CUDA's; 0 on the CPU

    def wait(self, event: Event) -> None:
        """What is handed in from now on runs once the event has passed; the host does not wait."""

    def record(self) -> Event:
        """The event behind all that was handed in until now."""

    def use(self) -> AbstractContextManager[None]:
        """Inside, torch's operations of this thread go to this stream, and its device is the current one."""

    def make_current(self) -> None:
        """From now on, torch's operations of this thread go to this stream."""

    def keep_alive(self, tensor: torch.Tensor) -> None:
        """The tensor's memory is not reused before what was handed in until it is dropped has run.

        PyTorch gives the memory of a dropped tensor to the next that its own stream allocates, which other
        streams' work may still read or write. So it must be told of every other stream that does.
        """


class Device(Protocol):
    """Where tensors lie and streams run."""

    name: str  # as torch names it: cuda:0, cpu
    torch_device: torch.device

    def new_stream(self) -> Stream:
        """A stream that nobody else has; it is used again once it is dropped."""

    def legacy_stream_event(self) -> Event:
        """The event behind what other libraries gave CUDA's legacy default stream, as FFmpeg does."""

    def empty(self, size: int, stream: Stream) -> torch.Tensor:
        """`size` bytes of the device's memory (size,) uint8, for `stream` to use."""

    def pinned(self, size: int) -> torch.Tensor:
        """`size` bytes of page-locked memory of the host (size,) uint8: copies from and to it do not wait."""

    def copy(self, to: torch.Tensor, source: torch.Tensor, stream: Stream) -> None:
        """Copy as part of a stream; one of the two may lie in page-locked memory, or on another device."""

    def download(self, tensors: Mapping[str, torch.Tensor], stream: Stream) -> dict[str, np.ndarray]:
        """Tensors that `stream` may read as arrays of the host that are the caller's own; waits for them."""
