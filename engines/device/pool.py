"""A bounded pool of surfaces: memory for frames, used again and again."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.device.image import DeviceImage, Layout, PendingReads, layout_of, memory_size, planes_of
from engines.device.transfers import KeepAlive, StagingBuffers
from engines.errors import EngineError
from engines.images.yuv import YuvImage

if TYPE_CHECKING:
    import torch

    from engines.device.streams import Device, Event, Stream

WAIT_S = 30.0


class Surface:
    """Memory for one frame after the other: `planes` lie inside of `memory` (bytes,) uint8."""

    def __init__(self, memory: torch.Tensor, layout: Layout, size: tuple[int, int]):
        self.memory, self.layout, self.size = memory, layout, size
        self.planes = planes_of(memory, layout, size)
        self.readers = PendingReads()
        self.written: Event | None = None  # behind the last write, for which perhaps nobody has waited


class SurfacePool:
    """At most `limit` surfaces of a device; one comes back when the image that it holds is gone.

    In steady state nothing is allocated: `made` counts the surfaces that ever were.
    """

    def __init__(self, device: Device, limit: int, wait_s: float = WAIT_S):
        self.device, self.limit = device, limit
        self.made = 0
        self._wait_s = wait_s
        self._there = 0
        self._free: list[Surface] = []
        # Images vanish in any thread, also in one that holds a lock when the garbage collector comes by. So
        # what runs then must take no lock of ours; a SimpleQueue may be entered again.
        self._back: queue.SimpleQueue[Surface] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._staging = StagingBuffers(device)

    @property
    def held(self) -> int:
        """Surfaces that are being written, or hold an image that somebody has."""
        return self._there - len(self._free) - self._back.qsize()

    def take(self, layout: Layout, size: tuple[int, int], stream: Stream) -> Surface:
        """A surface for an image of `size` (width, height), which `stream` may overwrite.

        Waits, on the host, while all are out. Whoever takes one makes it an `image` or gives it back.

        Raises:
            EngineError: none came back in time.
        """
        deadline = time.monotonic() + self._wait_s
        if not self._turn.acquire(timeout=self._wait_s):
            raise self._exhausted()
        try:
            surface = self._find(layout, size, deadline) or self._make(layout, size, stream)
        finally:
            self._turn.release()
        if surface.written is not None:
            stream.wait(surface.written)
        surface.readers.wait_before_write(stream)
        stream.keep_alive(surface.memory)
        return surface

    def give_back(self, surface: Surface) -> None:
        """Take back a surface that became no image."""
        self._back.put(surface)

    def image(self, surface: Surface, matrix: np.ndarray | None, ready: Event) -> DeviceImage:
        """The frame that was written to a surface, which comes back when the image is gone."""
        surface.written = ready
        image = DeviceImage(surface.planes, matrix, ready, self.device, surface.readers)
        weakref.finalize(image, self._back.put, surface).atexit = False
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
            for to, plane in zip(planes_of(memory, layout, surface.size), planes, strict=True):
                np.copyto(to.numpy(), plane)

        try:
            ready = self._staging.upload(fill, surface.memory, stream)
        except BaseException:
            self._abandon(surface, stream)
            raise
        return self.image(surface, matrix, ready)

    def from_device(
        self,
        planes: Sequence[torch.Tensor],
        matrix: np.ndarray | None,
        stream: Stream,
        after: Event,
        owner: Any,
        kept: KeepAlive,
    ) -> DeviceImage:
        """Copy planes in another's memory on the device, such as a decoder's, to a surface.

        Args:
            planes: as `DeviceImage` has them; rows may be padded.
            matrix: as `DeviceImage` has it.
            stream: does the copy.
            after: the event after which they may be read; FFmpeg's: `device.legacy_stream_event()`.
            owner: what keeps their memory, held until the copy has run.
            kept: holds it; one a decoder.

        Raises:
            LayoutError: they are not 8 bit, or not NV12, I420 or RGB.
            EngineError: as `take`.
        """
        layout, (height, width) = layout_of(planes), planes[0].shape[:2]
        surface = self.take(layout, (width, height), stream)
        try:
            stream.wait(after)
            for to, plane in zip(surface.planes, planes, strict=True):
                self.device.copy(to, plane, stream)
        except BaseException:
            kept.keep(owner, self._abandon(surface, stream))
            raise
        ready = stream.record()
        kept.keep(owner, ready)
        return self.image(surface, matrix, ready)

    def _abandon(self, surface: Surface, stream: Stream) -> Event:
        """Take back a surface that `stream` may write to still; the event after which it does not."""
        done = stream.record()
        surface.readers.add(stream, done)  # the next writer waits for it
        self.give_back(surface)
        return done

    def _find(self, layout: Layout, size: tuple[int, int], deadline: float) -> Surface | None:
        """A free surface of this kind; None if one may be made."""
        while True:
            while not self._back.empty():
                self._free.append(self._back.get())
            for surface in self._free:
                if (surface.layout, surface.size) == (layout, size):
                    self._free.remove(surface)
                    return surface
            if self._there < self.limit:
                return None
            if self._free:  # of another size: its memory goes back to PyTorch, which knows who uses it still
                self._free.pop(0)
                self._there -= 1
                return None
            try:
                self._free.append(self._back.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                raise self._exhausted() from None

    def _make(self, layout: Layout, size: tuple[int, int], stream: Stream) -> Surface:
        surface = Surface(self.device.empty(memory_size(layout, size), stream), layout, size)
        self._there += 1
        self.made += 1
        return surface

    def _exhausted(self) -> EngineError:
        return EngineError(
            f"no surface on {self.device.name} came back for {self._wait_s:g} s, {self.held} of {self.limit} "
            "are held by frames in the graph; give decode more surfaces, or make edges and batches smaller"
        )
