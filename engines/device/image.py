"""Frames in a device's memory, and the rules for reading them from several streams."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engines.device.devices import thread_stream
from engines.device.exported_plane import ExportedPlane
from engines.device.plane_layout import LAYOUTS, Layout, frame_bytes, planes_in, planes_to_rgb
from engines.images.yuv import YuvImage

if TYPE_CHECKING:
    import torch

    from engines.device.streams import Device, Event, Stream


class PendingReads:
    """The events after the last reads of some memory, one for each stream; the next writer waits for them."""

    def __init__(self) -> None:
        self._events: dict[Stream, Event] = {}
        self._lock = threading.Lock()

    def add(self, stream: Stream, until: Event) -> None:
        """Record that work queued on `stream` reads this memory, until the event `until` of that stream."""
        with self._lock:
            self._events[stream] = until  # earlier events of the stream complete before it

    def wait_before_write(self, stream: Stream) -> None:
        """Make `stream` wait for all recorded reads; its later work may overwrite the memory."""
        with self._lock:
            events, self._events = self._events, {}
        for event in events.values():
            stream.wait(event)


class DeviceImage:
    """A frame in a device's memory; it satisfies `pipeline.packet.Picture`.

    Args:
        planes: uint8 tensors: NV12, y (H, W) and uv (ceil(H / 2), ceil(W / 2), 2); I420, y, u and v; or RGB
            (H, W, 3) alone. Rows may be padded (strides).
        matrix: (3, 4) float32 as `engines.images.yuv.YuvImage.matrix`; None for RGB.
        ready: the event after which the planes may be read.
        device: where the planes lie.
        reads: the surface's record of reads, if the planes lie in a surface.
    """

    def __init__(
        self,
        planes: Sequence[torch.Tensor],
        matrix: np.ndarray | None,
        ready: Event,
        device: Device,
        reads: PendingReads | None = None,
    ):
        self.planes, self.matrix, self.ready, self.device = tuple(planes), matrix, ready, device
        self.reads = reads or PendingReads()
        self._lock = threading.Lock()  # several stages may ask at once
        self._rgb: np.ndarray | None = None
        self._copies: dict[Device, DeviceImage] = {}

    @property
    def layout(self) -> Layout:
        """The layout of the planes."""
        return LAYOUTS[len(self.planes)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3), as that of `rgb`."""
        height, width = self.planes[0].shape[:2]
        return (height, width, 3)

    @contextlib.contextmanager
    def reading(self, stream: Stream) -> Iterator[tuple[torch.Tensor, ...]]:
        """The planes, for work queued on `stream` inside; they are not overwritten until it has run."""
        with reading([self], stream) as planes:
            yield planes[0]

    @contextlib.contextmanager
    def export(self, stream: Stream) -> Iterator[tuple[ExportedPlane, ...]]:
        """The planes as other CUDA libraries take them, for work that they queue on `stream` inside.

        Work that is queued inside runs after the frame is complete, and the frame is not overwritten before
        it has run. A plane, or a view of one, that is kept longer keeps the frame as it is.
        """
        with self.reading(stream) as planes:
            yield tuple(ExportedPlane(self, plane, stream) for plane in planes)

    def copied_planes(self, stream: Stream) -> list[torch.Tensor]:
        """Copies of the planes, made on `stream`, for the caller to change there; see `DeviceImage`."""
        size = (self.shape[1], self.shape[0])
        memory = self.device.empty(frame_bytes(self.layout, size), stream)
        copies = planes_in(memory, self.layout, size)
        with self.reading(stream) as planes:
            for to, plane in zip(copies, planes, strict=True):
                self.device.copy(to, plane, stream)
        return copies

    def on(self, device: Device, stream: Stream) -> DeviceImage:
        """This image on `device`, for `stream` of that device; copied once, and kept with this image."""
        if device is self.device:
            return self
        with self._lock:
            if device not in self._copies:
                self._copies[device] = self._copy_to(device, stream)
            return self._copies[device]

    @property
    def rgb(self) -> np.ndarray:
        """The frame as RGB (H, W, 3) uint8 on the host; downloaded and converted once."""
        with self._lock:
            if self._rgb is None:
                stream = thread_stream(self.device)
                with self.reading(stream) as planes:
                    found = self.device.download({str(i): plane for i, plane in enumerate(planes)}, stream)
                self._rgb = planes_to_rgb([found[str(i)] for i in range(len(planes))], self.matrix)
            return self._rgb

    def _copy_to(self, device: Device, stream: Stream) -> DeviceImage:
        """Copy on this thread's stream of the source device: PyTorch copies between devices there."""
        source_stream = thread_stream(self.device)
        size = (self.shape[1], self.shape[0])
        planes = planes_in(device.empty(frame_bytes(self.layout, size), stream), self.layout, size)
        with self.reading(source_stream) as sources, source_stream.use():
            for to, source in zip(planes, sources, strict=True):
                device.copy(to, source, stream)
        return DeviceImage(planes, self.matrix, stream.record(), device)


Image = np.ndarray | YuvImage | DeviceImage  # RGB (H, W, 3) uint8, planes of YUV, or either on a device


@contextlib.contextmanager
def reading(images: Sequence[DeviceImage], stream: Stream) -> Iterator[list[tuple[torch.Tensor, ...]]]:
    """The planes of several images, for work queued on `stream` inside; not overwritten until it has run.

    All images must lie on the stream's device (`DeviceImage.on`).
    """
    for image in images:
        stream.wait(image.ready)
    try:
        yield [image.planes for image in images]
    finally:  # also after an error: some of the work may have been queued
        done = stream.record()
        for image in images:
            for plane in image.planes:
                stream.keep_alive(plane)
            image.reads.add(stream, done)
