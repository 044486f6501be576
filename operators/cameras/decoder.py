"""Decodes what arrives from a camera, one connection long, without holding anything back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import av
from av.packet import Packet
from av.video.frame import VideoFrame

from operators.cameras.connection import Arrival, Video
from operators.decoding.frame_images import Decoder
from operators.decoding.video import to_ns

PACKETS_KNOWN = 64  # frames come out of the decoder fewer packets later than that


class Decoded(NamedTuple):
    """A frame, and what is known of the packet it came in."""

    frame: VideoFrame
    kind: str  # codec and size
    pts_ns: int | None  # by the camera's clock
    arrived_ns: int
    captured_ns: int | None


class CameraDecoder:
    """Decodes packets to frames; damaged frames are left out and counted."""

    def __init__(self, video: Video, decoder: Decoder, count: Callable[[str, int], None]):
        self._decoder, self._count = decoder, count
        self._video = video
        self._came: tuple[int, int | None] = (0, None)
        self._known: dict[int | None, tuple[int, int | None]] = {}  # pts: arrived_ns, captured_ns

    def decode(self, arrival: Arrival) -> Iterator[Decoded]:
        """The frames that are complete with this packet; as a rule its own."""
        if arrival.skipped:
            self._count("late_packets", arrival.skipped)
            self._decoder.flush_buffers()
        self._came = arrival.arrived_ns, arrival.captured_ns
        self._known[arrival.packet.pts] = self._came
        if len(self._known) > PACKETS_KNOWN:
            del self._known[next(iter(self._known))]
        return self._frames(arrival.packet)

    def rest(self) -> Iterator[Decoded]:
        """The frames that it still holds; there will be no more packets."""
        return self._frames(None)

    def _frames(self, packet: Packet | None) -> Iterator[Decoded]:
        try:
            frames = self._decoder.decode(packet)
        except av.error.FFmpegError:
            self._count("broken_frames", 1)
            return
        for frame in frames:
            if frame.is_corrupt:  # the decoder filled holes with guesses
                self._count("broken_frames", 1)
                continue
            timed = self._video.has_clock and frame.pts is not None
            pts_ns = to_ns(frame.pts or 0, self._video.time_base) if timed else None
            yield Decoded(frame, self._kind(frame), pts_ns, *self._known.get(frame.pts, self._came))

    def _kind(self, frame: VideoFrame) -> str:
        return f"{self._video.context.codec.canonical_name} {frame.width}x{frame.height}"
