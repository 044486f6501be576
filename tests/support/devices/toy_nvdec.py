"""A stand-in for NVDEC: frames of the CPU's decoder in NVDEC's form, with planes of NV12 by DLPack."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from av.error import InvalidDataError
from av.video.frame import VideoFrame

from operators.decoding.nvdec import decoder_like


class Plane:
    """A plane (H, W, …) uint8 with padded rows, as decoders have them."""

    def __init__(self, samples: np.ndarray):
        padded = np.zeros((samples.shape[0], samples.shape[1] + 24, *samples.shape[2:]), np.uint8)
        padded[:, : samples.shape[1]] = samples
        self._tensor = torch.from_numpy(padded)[:, : samples.shape[1]]
        self.exports = 0

    def __dlpack__(self):  # without `stream`: PyAV's planes refuse one
        self.exports += 1
        return self._tensor.__dlpack__()


class HardwareFrame:
    """A frame with planes as NVDEC's; all other attributes are those of the decoded frame."""

    def __init__(self, frame: VideoFrame, sw_format: str = "nv12", size: tuple[int, int] | None = None):
        self._frame = frame
        self.format, self.sw_format = SimpleNamespace(name="cuda"), SimpleNamespace(name=sw_format)
        self.width, self.height = size or (frame.width, frame.height)
        y, u, v = planes_of(frame)
        self.planes = Plane(y), Plane(np.stack([u, v], -1))

    def __getattr__(self, name: str):
        return getattr(self._frame, name)


class Hardware:
    """A decoder like NVDEC.

    Args:
        context: the decoder that it stands in for.
        fails_on: the numbers of the packets on which it fails.
        silent: whether it returns no frames.
        frames: further arguments for each `HardwareFrame`.
    """

    def __init__(self, context, *, fails_on=(), silent=False, **frames):
        self._context, self._fails_on, self._silent, self._frames = (
            decoder_like(context, None),
            fails_on,
            silent,
            frames,
        )
        self.packets = self.flushed = 0
        self.given: list[HardwareFrame] = []

    def decode(self, packet):
        self.packets += 1
        if self.packets - 1 in self._fails_on:
            raise InvalidDataError(1094995529, "Invalid data found when processing input")
        frames = [HardwareFrame(frame, **self._frames) for frame in self._context.decode(packet)]
        self.given += frames
        return [] if self._silent else frames

    def flush_buffers(self):
        self.flushed += 1
        self._context.flush_buffers()


def planes_of(frame: VideoFrame) -> list[np.ndarray]:
    """The planes of a frame of the CPU's decoder, (H, W) uint8 each."""
    return [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    ]
