"""A bounded pool of surfaces: memory for frames that is used again and again."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.device.image import DeviceImage, PendingReads
from engines.device.plane_layout import Layout, frame_bytes, layout_of, planes_in
from engines.device.transfers import KeepAlive, StagingBuffers
from engines.errors import EngineError
from engines.images.yuv import YuvImage

if TYPE_CHECKING:
    import torch

    from engines.device.streams import Device, Event, Stream

WAIT_S = 30.0


class Surface:
    """Memory for one frame after another; `planes` are views of `memory`, (bytes,) uint8."""

    def __init__(self, memory: torch.Tensor, layout: Layout, size: tuple[int, int]):
        self.memory, self.layout, self.size = memory, layout, size
        self.planes = planes_in(memory, layout, size)
        self.reads = PendingReads()
        self.written: Event | None = None  # after the last write, which may still be running


class SurfacePool:
    """At most `limit` surfaces of a device; a surface returns when the image that it holds is dropped.

    In steady state nothing is allocated: `allocated` counts all surfaces that the pool has ever allocated.
    """

    def __init__(self, device: Device, limit: int, wait_s: float = WAIT_S):
        self.device, self.limit = device, limit
        self.allocated = 0
        self._wait_s = wait_s
        self._count = 0
        self._free: list[Surface] = []
        # Images are dropped on any thread, even on one that holds a lock of ours when the garbage collector
        # runs. So the finaliser of an image must take no lock; a SimpleQueue may be entered again by the same
        # thread.
        self._returned: queue.SimpleQueue[Surface] = queue.SimpleQueue()
        self._taking = threading.Lock()
        self._staging = StagingBuffers(device)

    @property
    def held(self) -> int:
        """Surfaces that are being written, or hold an image that is still in use."""
        return self._count - len(self._free) - self._returned.qsize()

    def take(self, layout: Layout, size: tuple[int, int], stream: Stream) -> Surface:
        """A surface for a frame of `size` (width, height), which work on `stream` may overwrite.

        The host waits while all surfaces are held. The caller passes the surface to `as_image` or
        `give_back`.

        Raises:
            EngineError: no surface returned in time.
        """
        deadline = time.monotonic() + self._wait_s
        if not self._taking.acquire(timeout=self._wait_s):
            raise self._exhausted()
        try:
            surface = self._find(layout, size, deadline) or self._allocate(layout, size, stream)
        finally:
            self._taking.release()
        if surface.written is not None:
            stream.wait(surface.written)
        surface.reads.wait_before_write(stream)
        stream.keep_alive(surface.memory)
        return surface

    def give_back(self, surface: Surface) -> None:
        """Return a surface that did not become an image."""
        self._returned.put(surface)

    def as_image(self, surface: Surface, matrix: np.ndarray | None, ready: Event) -> DeviceImage:
        """The frame that is in a surface after `ready`; the surface returns when the image is dropped."""
        surface.written = ready
        image = DeviceImage(surface.planes, matrix, ready, self.device, surface.reads)
        weakref.finalize(image, self._returned.put, surface).atexit = False
        return image

    def from_host(self, picture: YuvImage | np.ndarray, stream: Stream) -> DeviceImage:
        """Upload a picture, planes of YUV or RGB (H, W, 3) uint8; the host does not wait for the copy.

        Raises:
            EngineError: as `take`.
        """
        planes, matrix = (
            ([picture.y, picture.u, picture.v], picture.matrix)
            if isinstance(picture, YuvImage)
            else ([picture], None)
        )
        layout, (height, width) = layout_of(planes), planes[0].shape[:2]
        surface = self.take(layout, (width, height), stream)

        def fill(memory: torch.Tensor) -> None:
            for to, plane in zip(planes_in(memory, layout, surface.size), planes, strict=True):
                np.copyto(to.numpy(), plane)

        try:
            ready = self._staging.upload(fill, surface.memory, stream)
        except BaseException:
            self._abandon(surface, stream)
            raise
        return self.as_image(surface, matrix, ready)

    def from_device(
        self,
        planes: Sequence[torch.Tensor],
        matrix: np.ndarray | None,
        stream: Stream,
        after: Event,
        owner: Any,
        keep_alive: KeepAlive,
    ) -> DeviceImage:
        """Copy planes that lie in another library's memory on the device, such as a decoder's, to a surface.

        Args:
            planes: as `DeviceImage` has them; rows may be padded.
            matrix: as `DeviceImage` has it.
            stream: the stream that copies.
            after: the event after which the planes may be read; for FFmpeg `device.legacy_stream_event()`.
            owner: the object that owns their memory; kept alive until the copy has run.
            keep_alive: keeps `owner`; one for each decoder.

        Raises:
            LayoutError: the planes are not 8 bit, or not NV12, I420 or RGB.
            EngineError: as `take`.
        """
        layout, (height, width) = layout_of(planes), planes[0].shape[:2]
        surface = self.take(layout, (width, height), stream)
        try:
            stream.wait(after)
            for to, plane in zip(surface.planes, planes, strict=True):
                self.device.copy(to, plane, stream)
        except BaseException:
            keep_alive.keep(owner, self._abandon(surface, stream))
            raise
        ready = stream.record()
        keep_alive.keep(owner, ready)
        return self.as_image(surface, matrix, ready)

    def _abandon(self, surface: Surface, stream: Stream) -> Event:
        """Return a surface after an error; the event after the last write that `stream` may still do."""
        done = stream.record()
        surface.reads.add(stream, done)  # so that the next writer waits for it
        self.give_back(surface)
        return done

    def _find(self, layout: Layout, size: tuple[int, int], deadline: float) -> Surface | None:
        """A free surface of this layout and size; None if the caller may allocate one."""
        while True:
            while not self._returned.empty():
                self._free.append(self._returned.get())
            for surface in self._free:
                if (surface.layout, surface.size) == (layout, size):
                    self._free.remove(surface)
                    return surface
            if self._count < self.limit:
                return None
            if self._free:  # of another size: PyTorch gets its memory back, after the work that still uses it
                self._free.pop(0)
                self._count -= 1
                return None
            try:
                self._free.append(self._returned.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                raise self._exhausted() from None

    def _allocate(self, layout: Layout, size: tuple[int, int], stream: Stream) -> Surface:
        surface = Surface(self.device.empty(frame_bytes(layout, size), stream), layout, size)
        self._count += 1
        self.allocated += 1
        return surface

    def _exhausted(self) -> EngineError:
        return EngineError(
            f"no surface on {self.device.name} was free for {self._wait_s:g} s, {self.held} of {self.limit} "
            "are held by frames in the graph; give decode more surfaces, or make edges and batches smaller"
        )
