"""An NVIDIA GPU as a device. PyTorch owns its memory, its events and its context, the primary one."""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch

from engines.device.gpus import call, runtime
from engines.device.streams import Event, Stream
from engines.device.transfers import DownloadBuffer


class CudaEvent:
    """A point in a stream's work."""

    def __init__(self, stream: torch.cuda.Stream):
        # A host that waits for it sleeps; without `blocking` it would spin and take a core from the decoders.
        self.event = torch.cuda.Event(blocking=True)
        self.event.record(stream)

    def synchronise(self) -> None:
        """Make the host wait; torch lets go of the interpreter's lock meanwhile."""
        self.event.synchronize()

    def completed(self) -> bool:
        """Whether it has passed; without waiting."""
        return bool(self.event.query())


class CudaStream:
    """A stream of CUDA that waits for no other but by events."""

    def __init__(self, device: CudaDevice, stream: torch.cuda.Stream):
        self.stream = stream
        self.handle = int(stream.cuda_stream)
        self.downloads = DownloadBuffer(device)

    def wait(self, event: Event) -> None:
        """What is handed in from now on runs once the event has passed."""
        if isinstance(event, CudaEvent):
            self.stream.wait_event(event.event)
        else:
            event.synchronise()  # the CPU's have passed

    def record(self) -> CudaEvent:
        """The event behind all that was handed in until now."""
        return CudaEvent(self.stream)

    def use(self) -> contextlib.AbstractContextManager[None]:
        """Inside, torch's operations of this thread go here, and this is the current device."""
        return cast(contextlib.AbstractContextManager[None], torch.cuda.stream(self.stream))

    def make_current(self) -> None:
        """From now on, torch's operations of this thread go here, and this is its current device."""
        torch.cuda.set_stream(self.stream)

    def keep_alive(self, tensor: torch.Tensor) -> None:
        """The tensor's memory is not reused before what was handed in here has run."""
        tensor.record_stream(self.stream)


class CudaDevice:
    """See `engines.device.streams.Device`."""

    def __init__(self, index: int):
        self.name = f"cuda:{index}"
        self.torch_device = torch.device("cuda", index)
        self._idle: deque[torch.cuda.Stream] = deque()

    def new_stream(self) -> CudaStream:
        """A stream that nobody else has; it is used again once it is dropped.

        Streams that torch makes itself come from 32 that it hands out in turn, to several threads each; what
        one of them gave to a stream while another records a CUDA graph on it would end up in the graph.
        PyTorch may ask for a stream's progress long after it was used, so none is ever destroyed.
        """
        try:
            stream = self._idle.popleft()
        except IndexError:
            torch.cuda.init()
            with torch.cuda.device(self.torch_device):
                call("cudaSetDevice", self.torch_device.index)  # the bindings' own runtime may think another
                handle = int(call("cudaStreamCreateWithFlags", runtime().cudaStreamNonBlocking))
            stream = torch.cuda.ExternalStream(handle, self.torch_device)
        ours = CudaStream(self, stream)
        weakref.finalize(ours, self._idle.append, stream).atexit = False
        return ours

    def legacy_stream_event(self) -> CudaEvent:
        """The event behind what others gave the legacy default stream; none of our own work goes there."""
        return CudaEvent(torch.cuda.default_stream(self.torch_device))

    def empty(self, size: int, stream: Stream) -> torch.Tensor:
        """Memory (size,) uint8, for `stream` to use."""
        with stream.use():
            return torch.empty(size, dtype=torch.uint8, device=self.torch_device)

    def pinned(self, size: int) -> torch.Tensor:
        """Page-locked memory of the host (size,) uint8."""
        with torch.cuda.device(self.torch_device):
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def copy(self, to: torch.Tensor, source: torch.Tensor, stream: Stream) -> None:
        """Copy as part of a stream; the host does not wait."""
        with stream.use():
            to.copy_(source, non_blocking=True)

    def download(self, tensors: Mapping[str, torch.Tensor], stream: Stream) -> dict[str, np.ndarray]:
        """Tensors that `stream` may read as arrays of the host; waits for their own event only."""
        return cast(CudaStream, stream).downloads.download(tensors, stream)
