"""Decodes the packets of one connection to a camera, without holding frames back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import av
from av.packet import Packet
from av.video.frame import VideoFrame

from operators.cameras.connection import Video
from operators.cameras.packet_queue import Arrival
from operators.decoding.frame_images import Decoder
from operators.decoding.times import to_ns

PACKETS_KNOWN = 64  # a frame comes out of the decoder fewer packets after its own


class Decoded(NamedTuple):
    """A frame, with the times of the packet that it came in."""

    frame: VideoFrame
    format: str  # codec and size
    pts_ns: int | None  # by the camera's clock
    arrived_ns: int
    captured_ns: int | None


class CameraDecoder:
    """Decodes packets to frames; leaves out and counts damaged frames."""

    def __init__(self, video: Video, decoder: Decoder, count: Callable[[str, int], None]):
        self._decoder, self._count = decoder, count
        self._video = video
        self._latest: tuple[int, int | None] = (0, None)  # arrived_ns, captured_ns of the last packet
        self._known: dict[int | None, tuple[int, int | None]] = {}  # the same by pts

    def decode(self, arrival: Arrival) -> Iterator[Decoded]:
        """The frames that are complete with this packet; usually its own."""
        if arrival.skipped:
            self._count("late_packets", arrival.skipped)
            self._decoder.flush_buffers()
        self._latest = arrival.arrived_ns, arrival.captured_ns
        self._known[arrival.packet.pts] = self._latest
        if len(self._known) > PACKETS_KNOWN:
            del self._known[next(iter(self._known))]
        return self._frames(arrival.packet)

    def rest(self) -> Iterator[Decoded]:
        """The frames that the decoder still holds, after the last packet."""
        return self._frames(None)

    def _frames(self, packet: Packet | None) -> Iterator[Decoded]:
        try:
            frames = self._decoder.decode(packet)
        except av.error.FFmpegError:
            self._count("broken_frames", 1)
            return
        for frame in frames:
            if frame.is_corrupt:  # the decoder has filled in missing parts
                self._count("broken_frames", 1)
                continue
            timed = self._video.has_clock and frame.pts is not None
            pts_ns = to_ns(frame.pts or 0, self._video.time_base) if timed else None
            yield Decoded(frame, self._format(frame), pts_ns, *self._known.get(frame.pts, self._latest))

    def _format(self, frame: VideoFrame) -> str:
        return f"{self._video.context.codec.canonical_name} {frame.width}x{frame.height}"
