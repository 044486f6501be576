"""The interfaces of devices, streams and events; `cpu.py` and `cuda.py` implement them.

A stream is a queue of work that a device runs in order, beside the work of other streams. The host only adds
to the queue. Where work of one stream needs the result of another, the stream waits for an event on the
device; the host does not wait. Three rules keep memory correct:

    read after write   before reading, a stream waits for the event after the write (`DeviceImage.ready`)
    write after read   before overwriting, a stream waits for the events after all reads (`PendingReads`)
    freed too early    a stream that uses memory which another stream allocated says so (`Stream.keep_alive`)
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


class Event(Protocol):
    """A point in a stream's queue: it completes when all work queued before it has run."""

    def synchronise(self) -> None:
        """Block the host until the event has completed; other Python threads run meanwhile."""

    def completed(self) -> bool:
        """Whether the event has completed; does not wait."""


class Stream(Protocol):
    """A queue of work that the device runs in order, beside the work of other streams."""

    handle: int  # CUDA's cudaStream_t; 0 on the CPU

    def wait(self, event: Event) -> None:
        """Work that is queued from now on runs after the event; the device waits, not the host."""

    def record(self) -> Event:
        """The event after all work that is queued so far."""

    def use(self) -> AbstractContextManager[None]:
        """Inside, PyTorch's operations of this thread go to this stream; its device is the current one."""

    def make_current(self) -> None:
        """From now on, PyTorch's operations of this thread go to this stream."""

    def keep_alive(self, tensor: torch.Tensor) -> None:
        """Record that work queued on this stream uses the tensor's memory (PyTorch's `record_stream`).

        When a tensor is dropped, PyTorch gives its memory to the next allocation on the stream that allocated
        it. Work of other streams may still use it. After this call, PyTorch first waits for the work that
        this stream has queued up to the moment the tensor is dropped.
        """


class Device(Protocol):
    """A GPU or the CPU: where tensors lie and streams run."""

    name: str  # PyTorch's: cuda:0, cpu
    torch_device: torch.device

    def new_stream(self) -> Stream:
        """A stream that is not shared; after it is dropped, it is used again."""

    def legacy_stream_event(self) -> Event:
        """The event after other libraries' work on CUDA's legacy default stream, such as FFmpeg's."""

    def empty(self, size: int, stream: Stream) -> torch.Tensor:
        """`size` bytes of the device's memory, (size,) uint8, not initialised, for `stream` to use."""

    def pinned(self, size: int) -> torch.Tensor:
        """`size` bytes of page-locked host memory, (size,) uint8; its copies need no wait."""

    def copy(self, to: torch.Tensor, source: torch.Tensor, stream: Stream) -> None:
        """Queue a copy on `stream`; either tensor may lie in page-locked memory or on another device."""

    def download(self, tensors: Mapping[str, torch.Tensor], stream: Stream) -> dict[str, np.ndarray]:
        """Copy tensors that `stream` may read to NumPy arrays of the caller's own; the host waits."""
