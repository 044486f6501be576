"""An MP4 file written in fragments, so that it can be played up to the point where writing ended."""

from __future__ import annotations

import contextlib
import logging
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import cv2
import numpy as np
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from operators.files.sink_files import sink_error
from pipeline.errors import SinkError

log = logging.getLogger("posestream.video_sink")

ENCODERS = ("libx264", "libopenh264", "mpeg4")
# Exact for 24, 25, 29.97, 30, 50, 59.94, 60 and 120 frames/s; MPEG-4 part 2 allows at most 65535.
TIME_BASE = Fraction(1, 60_000)
TICKS_PER_NS = Fraction(60_000, 1_000_000_000)
# A header without frames, then fragments of a second, each complete in itself.
FRAGMENTED = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof",
    "frag_duration": "1000000",
    "flush_packets": "1",  # else a full disk is noticed late, or never
}
KEYFRAME_EVERY = 60  # frames, for seeking
MAX_STEP_BACK_NS = 1_000_000_000  # of the clock: a smaller step is jitter, a larger one a new clock
MAX_STEP_AHEAD_NS = 3600 * 1_000_000_000  # the video would stand still; MP4 cannot hold 20 h


def find_encoder() -> str:
    """The name of the best encoder in this FFmpeg.

    Raises:
        SinkError: it has none of them.
    """
    for name in ENCODERS:
        try:
            Codec(name, "w")
        except UnknownCodecError:
            continue
        if name == "mpeg4":
            log.warning(
                "this FFmpeg has no H.264 encoder; videos are MPEG-4 part 2, which browsers do not play"
            )
        return name
    raise SinkError(
        f"cannot write video: FFmpeg has none of {', '.join(ENCODERS)}; reinstall: pip install av"
    )


class Mp4:
    """A video of one picture size. A failed write cuts the file to its playable part, and closes it."""

    def __init__(
        self, path: Path, encoder: str, options: dict[str, str], size: tuple[int, int], first_ns: int = 0
    ):
        """Write the header; `size` is width and height in px; odd ones are made even.

        `first_ns` is the UNIX time of the first frame, kept for the rotation of files.

        Raises:
            SinkError: the file cannot be written.
        """
        self.path, self.size, self.first_ns = path, size, first_ns
        self.cut_off = 0  # frames that a failed write has lost
        self._frames = 0
        self._first_ns: int | None = None
        self._last_ns, self._last_tick = -(2**63), -1
        self._closed = False
        width, height = size[0] + size[0] % 2, size[1] + size[1] % 2
        try:
            self._container = av.open(str(path), "w", format="mp4", options=FRAGMENTED)
            stream = self._container.add_stream(encoder, options=options)
            assert isinstance(stream, VideoStream)
            self._stream = stream
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.time_base = stream.codec_context.time_base = TIME_BASE
            stream.codec_context.gop_size = KEYFRAME_EVERY
            if "crf" not in options:
                stream.codec_context.bit_rate = 3 * width * height
            # BT.601, limited range: as cv2 converts.
            stream.codec_context.colorspace, stream.codec_context.color_range = 6, 1
            self._container.start_encoding()
        except OSError as error:
            path.unlink(missing_ok=True)
            raise sink_error(path, error, 0) from None

    @property
    def bytes(self) -> int:
        """The present size of the file; 0 if it was deleted."""
        return self.path.stat().st_size if self.path.exists() else 0

    def refuses(self, size: tuple[int, int], pts_ns: int) -> str | None:
        """Why a picture of this size and time cannot go into this file; None if it can."""
        if size != self.size:
            return f"the picture is {size[0]}x{size[1]}, was {self.size[0]}x{self.size[1]}"
        step_ns = 0 if self._first_ns is None else pts_ns - self._last_ns
        if not -MAX_STEP_BACK_NS <= step_ns <= MAX_STEP_AHEAD_NS:
            return f"the clock is at {pts_ns / 1e9:.3f} s, was at {self._last_ns / 1e9:.3f} s"
        return None

    def append(self, picture: np.ndarray, pts_ns: int) -> None:
        """Encode a picture (H, W, 3) uint8 RGB; a time not later than the last one becomes a tick later.

        Raises:
            SinkError: the file cannot be written, and is closed.
        """
        width, height = self.size
        if width % 2 or height % 2:
            picture = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        # cv2 converts three times as fast as FFmpeg's scaler.
        planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), np.uint8)
        frame = VideoFrame.from_ndarray(planes, format="yuv420p")
        if self._first_ns is None:
            self._first_ns = pts_ns
        self._last_tick = max(round((pts_ns - self._first_ns) * TICKS_PER_NS), self._last_tick + 1)
        self._last_ns = pts_ns
        frame.pts, frame.time_base = self._last_tick, TIME_BASE
        self._encode(frame)
        self._frames += 1

    def _encode(self, frame: VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._closed = True
        with contextlib.suppress(OSError):  # closing meets the same error
            self._container.close()
        kept = cut_to_complete_fragments(self.path)
        self.cut_off = self._frames - kept
        raise sink_error(self.path, error, kept) from None

    def close(self) -> None:
        """Write the frames that the encoder still holds, and close.

        Raises:
            SinkError: the file cannot be written.
        """
        if self._closed:
            return
        self._encode(None)
        self._closed = True
        try:
            self._container.close()
        except OSError as error:
            self._give_up(error)


def cut_to_complete_fragments(path: Path) -> int:
    """Cut a fragmented MP4 after its last complete fragment; returns the number of frames that are left.

    A file without a complete header is deleted.
    """
    with path.open("rb") as file:
        ends = [end for kind, end in complete_boxes(file, path.stat().st_size) if kind in {b"moov", b"mdat"}]
    if not ends:
        path.unlink()
        return 0
    os.truncate(path, ends[-1])
    with av.open(str(path)) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def complete_boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Type and end of each complete top-level box in a file of `size` bytes (ISO 14496-12, 4.2)."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:  # a length of 64 bits follows the type
            length = int.from_bytes(file.read(8), "big")
        if length < 8 or start + length > size:
            return
        start += length
        yield kind, start
