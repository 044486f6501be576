"""Frames in a device's memory, and the surfaces that hold them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from engines.device.devices import thread_stream
from engines.device.transfers import align_up
from engines.errors import EngineError
from engines.images.yuv import YuvImage

if TYPE_CHECKING:
    import torch

    from engines.device.streams import Device, Event, Stream

Layout = Literal["nv12", "i420", "rgb"]


class LayoutError(EngineError):
    """Planes are of a kind that surfaces do not hold, such as 10 bit; the CPU's decoder can convert them."""


class PendingReads:
    """The events behind the last reads of a memory, one a stream; its next writer waits for them."""

    def __init__(self) -> None:
        self._events: dict[Stream, Event] = {}
        self._lock = threading.Lock()

    def add(self, stream: Stream, until: Event) -> None:
        """What this thread has given to `stream` until the event reads the memory."""
        with self._lock:
            self._events[stream] = until  # behind the stream's earlier ones

    def wait_before_write(self, stream: Stream) -> None:
        """What `stream` is given from now on runs behind all reads."""
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
        ready: the event after which they may be read.
        device: where they lie.
        readers: who reads them; those of the surface, if they are one's.
    """

    def __init__(
        self,
        planes: Sequence[torch.Tensor],
        matrix: np.ndarray | None,
        ready: Event,
        device: Device,
        readers: PendingReads | None = None,
    ):
        self.planes, self.matrix, self.ready, self.device = tuple(planes), matrix, ready, device
        self.readers = readers or PendingReads()
        self._lock = threading.Lock()  # several stages may ask at once
        self._rgb: np.ndarray | None = None
        self._elsewhere: dict[Device, DeviceImage] = {}

    @property
    def layout(self) -> Layout:
        """What the planes are."""
        return LAYOUTS[len(self.planes)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3), as that of `rgb`."""
        height, width = self.planes[0].shape[:2]
        return (height, width, 3)

    @contextlib.contextmanager
    def reading(self, stream: Stream) -> Iterator[tuple[torch.Tensor, ...]]:
        """The planes, for what `stream` is given inside; nobody overwrites them before that has run."""
        with reading([self], stream) as planes:
            yield planes[0]

    def on(self, device: Device, stream: Stream) -> DeviceImage:
        """This image on `device`, as one of its streams may read it; copied once and kept with the image."""
        if device is self.device:
            return self
        with self._lock:
            if device not in self._elsewhere:
                self._elsewhere[device] = self._copy(device, stream)
            return self._elsewhere[device]

    @property
    def rgb(self) -> np.ndarray:
        """The frame as RGB (H, W, 3) uint8 on the host; downloaded and converted once."""
        with self._lock:
            if self._rgb is None:
                stream = thread_stream(self.device)
                with self.reading(stream) as planes:
                    found = self.device.download({str(i): plane for i, plane in enumerate(planes)}, stream)
                self._rgb = to_rgb([found[str(i)] for i in range(len(planes))], self.matrix)
            return self._rgb

    def _copy(self, device: Device, stream: Stream) -> DeviceImage:
        """The copy runs on this thread's stream of the device that the image is on, as PyTorch does it."""
        near = thread_stream(self.device)
        size = (self.shape[1], self.shape[0])
        planes = planes_of(device.empty(memory_size(self.layout, size), stream), self.layout, size)
        with self.reading(near) as sources, near.use():
            for to, source in zip(planes, sources, strict=True):
                device.copy(to, source, stream)
        return DeviceImage(planes, self.matrix, stream.record(), device)


Image = np.ndarray | YuvImage | DeviceImage  # RGB (H, W, 3) uint8, planes of YUV, or either on a device


def layout_of(planes: Sequence[torch.Tensor | np.ndarray]) -> Layout:
    """What planes are, of the host or a device.

    Raises:
        LayoutError: they are not 8 bit, or not NV12, I420 or RGB.
    """
    shapes = [tuple(plane.shape) for plane in planes]
    kinds = {str(plane.dtype).removeprefix("torch.") for plane in planes}
    layout = LAYOUTS.get(len(planes))
    if layout is None or kinds != {"uint8"} or shapes != plane_shapes(layout, shapes[0][1::-1]):
        raise LayoutError(
            f"planes {shapes} of {' and '.join(sorted(kinds))} do not fit a surface, expected uint8 as NV12, "
            "I420 or RGB; decode such frames on the CPU (device: cpu), which converts them"
        )
    return layout


LAYOUTS: dict[int, Layout] = {1: "rgb", 2: "nv12", 3: "i420"}  # by the number of planes


@contextlib.contextmanager
def reading(images: Sequence[DeviceImage], stream: Stream) -> Iterator[list[tuple[torch.Tensor, ...]]]:
    """The planes of many images, for what `stream` is given inside; overwritten only once that has run.

    All of them must lie on the stream's device (`DeviceImage.on`).
    """
    for image in images:
        stream.wait(image.ready)
    try:
        yield [image.planes for image in images]
    finally:  # also if it raises: some of the work may have been handed in
        done = stream.record()
        for image in images:
            for plane in image.planes:
                stream.keep_alive(plane)
            image.readers.add(stream, done)


def plane_shapes(layout: Layout, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """The shapes of the planes of an image of `size` (width, height)."""
    width, height = size
    halved = (-(-height // 2), -(-width // 2))
    if layout == "rgb":
        return [(height, width, 3)]
    return [(height, width), (*halved, 2)] if layout == "nv12" else [(height, width), halved, halved]


def memory_size(layout: Layout, size: tuple[int, int]) -> int:
    """Bytes of an image of `size` (width, height)."""
    return sum(align_up(int(np.prod(shape))) for shape in plane_shapes(layout, size))


def planes_of(memory: torch.Tensor, layout: Layout, size: tuple[int, int]) -> list[torch.Tensor]:
    """The planes inside of `memory` (memory_size,) uint8, of the host or a device."""
    planes, start = [], 0
    for shape in plane_shapes(layout, size):
        count = int(np.prod(shape))
        planes.append(memory[start : start + count].view(shape))
        start += align_up(count)
    return planes


def to_rgb(planes: Sequence[np.ndarray], matrix: np.ndarray | None) -> np.ndarray:
    """RGB (H, W, 3) uint8 of planes on the host.

    Each sample of colour covers 2x2 px, as in swscale's conversion, which `Packet.image` is where frames are
    decoded on the CPU. The largest difference to it is 2 of 255, on average 0.1 to 0.3: measured with noise
    in BT.601, BT.709 and BT.2020, of full and of limited range, with the matrices of `frame_images`.
    Only with an odd height swscale blends the colours: then it is 1.8 on average, measured with smooth ones.
    """
    y = planes[0]
    if matrix is None:
        return y
    height, width = y.shape
    doubled = [
        cv2.resize(plane, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)[:height, :width]
        for plane in (cv2.split(planes[1]) if len(planes) == 2 else planes[1:])
    ]
    return cv2.transform(cv2.merge([y, *doubled]), matrix)
