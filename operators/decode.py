"""The operator `decode`: frames of videos, image folders and images, as RGB, with their true times."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from engines.yuv import YuvImage
from operators.media import IMAGE_FPS, SourceProbe, image_paths, probe, shots
from operators.video import SECOND_NS, Shot
from pipeline.errors import OptionError, SourceError
from pipeline.operator import Ports, RunInfo, Source
from pipeline.packet import Packet

__all__ = ["Decode", "SourceProbe", "probe"]

log = logging.getLogger("posestream.decode")

FPS_HELP = "thin out to this rate, by the frames' times; the rate itself for images, which have no clock (30)"
THREADS_HELP = (
    "0: slice threads if there are cores for them; n: n frame threads, faster for one stream, "
    "but damaged frames may go unnoticed"
)


class Decode(Source):
    """Decode one source: whatever FFmpeg opens, a folder of images in natural order, or an image.

    provides  image   uint8 (H, W, 3) RGB, C-contiguous, upright (display matrix, EXIF)

    Most videos come as planes of YUV, which detect and pose crop as they are; `packet.image` converts.

    `pts_ns` is the stream's own clock, not moved to zero; image i of a folder is at i / fps. `seq` numbers
    the packets given, 0, 1, 2 …, whatever `stride`, `fps` and `start_s` leave out: `pts_ns` says where in the
    file a packet is from. Damaged frames are left out and counted, never given half grey.
    """

    def __init__(
        self,
        stride: Annotated[int, Field(ge=1, description="give every n-th frame")] = 1,
        fps: Annotated[float | None, Field(gt=0, description=FPS_HELP)] = None,
        start_s: Annotated[float, Field(ge=0, description="first frame, seconds from the beginning")] = 0.0,
        stop_s: Annotated[float | None, Field(gt=0, description="end, likewise, exclusive")] = None,
        max_frames: Annotated[int | None, Field(ge=1, description="most packets a source")] = None,
        threads: Annotated[int, Field(ge=0, description=THREADS_HELP)] = 0,
        loop: Annotated[int, Field(ge=0, description="how often to play it; 0: for ever")] = 1,
    ):
        self.stride = stride
        self.fps = fps
        self.start_s = start_s
        self.stop_s = math.inf if stop_s is None else stop_s
        self.max_frames = max_frames
        self.threads = threads
        self.loop = loop

    def open(self, run: RunInfo) -> None:
        """With a core or less for a source, threads within a frame only cost: a twentieth of the decoding."""
        if self.threads == 0 and run.cores == 1:
            self.threads = 1

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """Refuse options that contradict each other."""
        if options.get("fps") is not None and options.get("stride", 1) != 1:
            raise OptionError("stride", "stride and fps both thin out the frames; keep one of them")
        start_s, stop_s = options.get("start_s", 0), options.get("stop_s")
        if stop_s is not None and stop_s <= start_s:
            raise OptionError(
                "stop_s", f"stop_s {stop_s:g} is not after start_s {start_s:g}; give a later one"
            )
        return super().ports(options)

    def read(self, stream: str, uri: str, clock: Callable[[], int] = time.time_ns) -> Iterator[Packet]:
        """Yield the packets of a source; `clock` gives UNIX time in ns.

        Raises:
            SourceError: before the first packet, if the source is missing, empty, or holds no picture.
        """
        events: Counter[str] = Counter()
        packets = 0
        try:
            for pts_ns, picture in self._rounds(uri, events):
                height, width = picture.shape[:2]
                yield Packet(stream, packets, pts_ns, clock(), (width, height), picture)
                packets += 1
                if packets == self.max_frames:
                    return
            if not packets:
                raise SourceError(
                    f"stream {stream} has no undamaged frame between start_s and stop_s; widen them"
                )
        finally:
            for event, n in events.items():
                self.count(event, n)
            if events:
                found = ", ".join(f"{event} {n}" for event, n in sorted(events.items()))
                log.warning("%s: %d frames given; %s", stream, packets, found)

    def frames_expected(self, uri: str) -> int | None:
        """How many packets `read` will give, by the header: an estimate where the rate varies."""
        if self.loop == 0:
            return self.max_frames
        found = probe(uri)
        fps = found.fps if image_paths(uri) is None else self.fps or IMAGE_FPS
        frames = found.frames or (round(found.duration_s * fps) if found.duration_s else None)
        if frames is None or not fps:
            return None
        in_range = min(frames, _frames_before(self.stop_s, fps)) - _frames_before(self.start_s, fps)
        thinned = max(self.stride, fps / self.fps if self.fps else 1)
        expected = self.loop * math.ceil(max(0, in_range) / thinned - 1e-6)
        return expected if self.max_frames is None else min(expected, self.max_frames)

    def _rounds(self, uri: str, events: Counter[str]) -> Iterator[tuple[int, np.ndarray | YuvImage]]:
        """Times and pictures of all rounds of a looped source; the clock goes on from round to round."""
        offset_ns = 0
        for _ in range(self.loop) if self.loop else count():
            found = shots(
                uri,
                start_s=self.start_s,
                stop_s=self.stop_s,
                image_fps=self.fps or IMAGE_FPS,
                threads=self.threads,
                events=events,
            )
            chosen = _every(found, self.stride) if self.fps is None else _at_rate(found, self.fps)
            times: list[int] = []  # first, last but one, last
            for shot in chosen:
                picture = shot.picture()
                if picture is None:
                    events["broken_frames"] += 1
                    continue
                times = [*(times[:1] + times[-1:] if times else []), shot.pts_ns]
                yield shot.pts_ns + offset_ns, picture
            if not times:
                return
            period_ns = times[-1] - times[-2] if len(times) > 1 else round(SECOND_NS / IMAGE_FPS)
            offset_ns += times[-1] - times[0] + period_ns


def _frames_before(time_s: float, fps: float) -> float:
    return math.inf if time_s == math.inf else math.ceil(time_s * fps - 1e-6)


def _every(found: Iterable[Shot], stride: int) -> Iterator[Shot]:
    return (shot for index, shot in enumerate(found) if index % stride == 0)


def _at_rate(found: Iterable[Shot], fps: float) -> Iterator[Shot]:
    """The first shot in each period of 1 / fps: even in time also where the source's rate varies.

    A shot may come a tenth of a period early, since containers round times (Matroska to milliseconds).
    """
    first_ns, last_period = None, -1
    for shot in found:
        first_ns = shot.pts_ns if first_ns is None else first_ns
        period = math.floor((shot.pts_ns - first_ns) * fps / SECOND_NS + 0.1)
        if period > last_period:
            last_period = period
            yield shot
