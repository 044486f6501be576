"""What NVDEC gives, out of the processor's decoder: frames of the format `cuda`, with planes of NV12 by DLPack."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from av.error import InvalidDataError
from av.video.frame import VideoFrame

from operators.decoding.nvdec import decoder_like


class Plane:
    """A plane (H, W, …) uint8 with padded rows, as a decoder has it."""

    def __init__(self, samples: np.ndarray):
        padded = np.zeros((samples.shape[0], samples.shape[1] + 24, *samples.shape[2:]), np.uint8)
        padded[:, : samples.shape[1]] = samples
        self._tensor = torch.from_numpy(padded)[:, : samples.shape[1]]
        self.exports = 0

    def __dlpack__(self):  # PyAV's refuses a stream, so none may be asked for
        self.exports += 1
        return self._tensor.__dlpack__()


class HardwareFrame:
    """A frame in NVDEC's memory; all else is as in the frame that it was made of."""

    def __init__(self, frame: VideoFrame, sw_format: str = "nv12", size: tuple[int, int] | None = None):
        self._frame = frame
        self.format, self.sw_format = SimpleNamespace(name="cuda"), SimpleNamespace(name=sw_format)
        self.width, self.height = size or (frame.width, frame.height)
        y, u, v = planes_of(frame)
        self.planes = Plane(y), Plane(np.stack([u, v], -1))

    def __getattr__(self, name: str):
        return getattr(self._frame, name)


class Hardware:
    """A decoder on the GPU. It fails on the packets, by number, that `fails_on` names."""

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
    """The planes of a frame of the processor (H, W) uint8 each."""
    return [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    ]
