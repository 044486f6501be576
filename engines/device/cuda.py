"""An NVIDIA GPU as a device. PyTorch owns its memory, its events and its context, the primary one."""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch

from engines.device.cuda_bindings import call, library
from engines.device.streams import Event, Stream
from engines.device.transfers import DownloadBuffer


class CudaEvent:
    """A point in a CUDA stream's queue."""

    def __init__(self, stream: torch.cuda.Stream):
        # With `blocking`, a host thread that waits sleeps. Without, it would spin and take a core from the
        # decoders.
        self.event = torch.cuda.Event(blocking=True)
        self.event.record(stream)

    def synchronise(self) -> None:
        """Block the host until the event has completed; PyTorch releases the interpreter lock meanwhile."""
        self.event.synchronize()

    def completed(self) -> bool:
        """Whether the event has completed; does not wait."""
        return bool(self.event.query())


class CudaStream:
    """A non-blocking CUDA stream: it waits for other streams by events only, not for the default stream."""

    def __init__(self, device: CudaDevice, stream: torch.cuda.Stream):
        self.stream = stream
        self.handle = int(stream.cuda_stream)
        self.downloads = DownloadBuffer(device)

    def wait(self, event: Event) -> None:
        """Work that is queued from now on runs after the event."""
        if isinstance(event, CudaEvent):
            self.stream.wait_event(event.event)
        else:
            event.synchronise()  # an event of the CPU: it has completed

    def record(self) -> CudaEvent:
        """The event after all work that is queued so far."""
        return CudaEvent(self.stream)

    def use(self) -> contextlib.AbstractContextManager[None]:
        """Inside, PyTorch's operations of this thread go to this stream; its device is the current one."""
        return cast(contextlib.AbstractContextManager[None], torch.cuda.stream(self.stream))

    def make_current(self) -> None:
        """From now on, PyTorch's operations of this thread go to this stream, on its device."""
        torch.cuda.set_stream(self.stream)
        # By default, a thread must not query events or allocate while another one records a graph in CUDA's
        # "global" mode, as PyTorch does by default: the call fails, and so does the recording.
        modes = library("driver").CUstreamCaptureMode
        call("driver", "cuThreadExchangeStreamCaptureMode", modes.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)

    def keep_alive(self, tensor: torch.Tensor) -> None:
        """Record that work queued on this stream uses the tensor's memory."""
        tensor.record_stream(self.stream)


class CudaDevice:
    """See `engines.device.streams.Device`."""

    def __init__(self, index: int):
        self.name = f"cuda:{index}"
        self.torch_device = torch.device("cuda", index)
        self._idle: deque[torch.cuda.Stream] = deque()

    def new_stream(self) -> CudaStream:
        """A stream that is not shared; after it is dropped, it is used again.

        PyTorch's own streams will not do: it hands out 32 of them in turn, so several threads share each.
        Work that one thread queues while another records a CUDA graph on the same stream would become part of
        the graph. Streams are never destroyed, since PyTorch may query a stream long after its last use.
        """
        try:
            stream = self._idle.popleft()
        except IndexError:
            torch.cuda.init()
            with torch.cuda.device(self.torch_device):
                # The bindings have a CUDA runtime of their own, which may have another current device.
                call("runtime", "cudaSetDevice", self.torch_device.index)
                flags = library("runtime").cudaStreamNonBlocking
                handle = int(call("runtime", "cudaStreamCreateWithFlags", flags))
            stream = torch.cuda.ExternalStream(handle, self.torch_device)
        ours = CudaStream(self, stream)
        weakref.finalize(ours, self._idle.append, stream).atexit = False
        return ours

    def legacy_stream_event(self) -> CudaEvent:
        """The event after other libraries' work on the legacy default stream; we queue none there."""
        return CudaEvent(torch.cuda.default_stream(self.torch_device))

    def empty(self, size: int, stream: Stream) -> torch.Tensor:
        """Memory of the GPU, (size,) uint8, not initialised, for `stream` to use."""
        with stream.use():
            return torch.empty(size, dtype=torch.uint8, device=self.torch_device)

    def pinned(self, size: int) -> torch.Tensor:
        """Page-locked host memory, (size,) uint8."""
        with torch.cuda.device(self.torch_device):
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def copy(self, to: torch.Tensor, source: torch.Tensor, stream: Stream) -> None:
        """Queue a copy on `stream`; the host does not wait."""
        with stream.use():
            to.copy_(source, non_blocking=True)

    def download(self, tensors: Mapping[str, torch.Tensor], stream: Stream) -> dict[str, np.ndarray]:
        """Copy tensors that `stream` may read to NumPy arrays; the host waits for these copies only."""
        return cast(CudaStream, stream).downloads.download(tensors, stream)
