"""The options of `decode`, as every kind of source gets them, and which frames they select."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Literal

from operators.decoding.times import SECOND_NS

Transport = Literal["tcp", "udp", "udp_multicast", "http", "https"]


@dataclass(frozen=True)
class DecodeOptions:
    """What `operators.decode.Decode` describes; a kind of source uses the options that concern it."""

    stride: int = 1
    fps: float | None = None
    start_s: float = 0.0
    stop_s: float = math.inf
    max_frames: int | None = None
    threads: int = 0
    loop: int = 1
    transport: Transport = "tcp"
    stall_s: float = 5.0
    attempts: int = 0
    device: str = "cpu"
    surfaces: int = 64

    def frame_filter(self) -> Callable[[int], bool]:
        """A function that says for each frame, by its `pts_ns` and in order of time, whether it is given.

        With `fps` it is the first frame in each period of 1 / fps, which is even in time even if the source's
        rate varies. A frame may come a tenth of a period early, since containers round times (Matroska to
        milliseconds).
        """
        return _every_nth(self.stride) if self.fps is None else _at_rate(self.fps)

    def frames_given(self, frames: int, fps: float) -> int:
        """How many packets a source of `frames` frames at `fps` gives: an estimate where the rate varies."""
        in_range = min(frames, _frames_before(self.stop_s, fps)) - _frames_before(self.start_s, fps)
        keep_one_in = max(self.stride, fps / self.fps if self.fps else 1)
        given = self.loop * math.ceil(max(0, in_range) / keep_one_in - 1e-6)
        return given if self.max_frames is None else min(given, self.max_frames)


def _every_nth(stride: int) -> Callable[[int], bool]:
    index = count()
    return lambda pts_ns: next(index) % stride == 0


def _at_rate(fps: float) -> Callable[[int], bool]:
    first_ns, last_period = None, -1

    def opens_a_period(pts_ns: int) -> bool:
        nonlocal first_ns, last_period
        first_ns = pts_ns if first_ns is None else first_ns
        period = math.floor((pts_ns - first_ns) * fps / SECOND_NS + 0.1)
        newer = period > last_period
        last_period = max(period, last_period)
        return newer

    return opens_a_period


def _frames_before(time_s: float, fps: float) -> float:
    return math.inf if time_s == math.inf else math.ceil(time_s * fps - 1e-6)
