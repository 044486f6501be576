"""Frames of a video that FFmpeg opens: sought, decoded past what is broken, with their true times."""

from __future__ import annotations

import functools
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream

from engines.yuv import YuvImage, rgb_matrix
from operators.cameras.uri import redact, scheme_of
from pipeline.errors import SourceError

SECOND_NS = 10**9
TEXT_CODECS = frozenset({"ansi", "bintext", "idf", "xbin"})  # FFmpeg draws text files as a terminal would
UNKNOWN_FPS = 30.0
# FFmpeg's numbers of colour matrices (ITU-T H.273); 2, unspecified, is taken for BT.601 as swscale does.
STANDARDS = {1: "bt709", 2: "bt601", 5: "bt601", 6: "bt601", 9: "bt2020"}


class Shot(NamedTuple):
    """One frame of a source, not yet converted: only the frames that are wanted cost a conversion."""

    pts_ns: int  # on the source's own clock
    picture: Callable[[], np.ndarray | YuvImage | None]  # upright, RGB or YUV; None if it cannot be decoded


def video_shots(
    uri: str, start_s: float, stop_s: float, threads: int, events: Counter[str]
) -> Iterator[Shot]:
    """The frames of a video whose time since its beginning is in [start_s, stop_s).

    Counts in `events` what `operators.media.shots` documents.

    Raises:
        SourceError: if it is no video, if none of its frames can be decoded, or none is in the range.
    """
    container, stream, origin_ns, frames = _open_at(uri, start_s, threads, events)
    with container:
        display_matrix = DisplayMatrix()
        start_ns = origin_ns + round(start_s * SECOND_NS)
        stop_ns = math.inf if stop_s == math.inf else origin_ns + round(stop_s * SECOND_NS)
        period_ns = round(SECOND_NS / (rate(stream) or UNKNOWN_FPS))
        pts_ns, reached_start = None, False
        for frame, pts_ns in _timed(frames, stream, origin_ns, period_ns, events):
            if pts_ns >= stop_ns:
                return
            if start_s and pts_ns < start_ns:
                continue
            reached_start = True
            if frame.is_corrupt:  # the decoder filled holes with guesses
                events["broken_frames"] += 1
            else:
                yield Shot(pts_ns, partial(picture_of, frame, display_matrix(frame)))
        if pts_ns is None:
            codec = stream.codec_context.name
            raise unreadable(uri, f"not one frame of its {codec} stream can be decoded")
        if not reached_start:
            raise starts_too_late(uri, start_s, (pts_ns - origin_ns) / SECOND_NS)
        if _ends_early(container, stream, pts_ns + period_ns, period_ns):
            events["truncated"] += 1


def open_video(uri: str, threads: int) -> tuple[InputContainer, VideoStream]:
    """Open a container and find its video stream; the caller closes the container.

    PyAV does not print FFmpeg's own messages as long as nobody calls `av.logging.set_level`. Keep it so: with
    a level set, every message takes the interpreter lock from within FFmpeg's threads and may deadlock.

    Raises:
        SourceError: if FFmpeg cannot open it, or finds no video in it.
    """
    try:
        # "file:", or FFmpeg takes the front of "horse:1.mp4" for a protocol.
        container = av.open(uri if is_url(uri) else f"file:{uri}", mode="r", metadata_errors="replace")
    except av.error.FFmpegError as error:  # whose own text holds the address, and so the password
        raise unreadable(uri, f"FFmpeg cannot open it ({error.strerror})") from None
    try:
        stream = video_stream(container)
    except ValueError as error:
        container.close()
        raise unreadable(uri, str(error)) from None
    # Frame threads take 13 to 40 % off the wall time of a single 1080x1920 stream on 2 cores and nothing
    # off four, but race with the marks of damage: 6 to 50 in 100 runs on a cut file gave its half grey frame
    # as a good one. Slice threads are exact; they help VP9 and sliced H.264 and cost the others nothing.
    stream.thread_type = "AUTO" if threads else "SLICE"
    stream.thread_count = threads or min(4, os.cpu_count() or 1)
    return container, stream


def video_stream(container: InputContainer) -> VideoStream:
    """The stream of a container that can be decoded to frames.

    Raises:
        ValueError: there is none; the text says what is there instead.
    """
    # The cover of a music file is a video stream to FFmpeg.
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    context = streams[0].codec_context if streams else None
    if context is None or context.name in TEXT_CODECS:
        if streams and context is None:
            raise ValueError("this FFmpeg has no decoder for its video")
        others = sorted({str(s.type) for s in container.streams if s.type != "video"})
        raise ValueError(f"there is no video in it, only {' and '.join(others) or 'text'}")
    return streams[0]


def is_url(uri: str) -> bool:
    """Whether FFmpeg is to find it (rtsp://…, http://…); a path that exists is a file, whatever its name."""
    return scheme_of(uri) is not None


def rate(stream: VideoStream) -> float:
    """Frames a second on average, 0 where the stream does not tell."""
    return float(stream.average_rate or stream.guessed_rate or 0)


def duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    """The duration that the header announces, if it does."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def unreadable(uri: str, found: str) -> SourceError:
    """The error for what is not a video, an image or a folder of images."""
    return SourceError(
        f"cannot read {redact(uri)}: {found}; expected a video, an image or a folder of images"
    )


def starts_too_late(uri: str, start_s: float, last_s: float) -> SourceError:
    """The error for a `start_s` behind the last frame."""
    return SourceError(
        f"start_s is {start_s:g} s, the last frame of {redact(uri)} is at {last_s:g} s; choose less"
    )


def _open_at(
    uri: str, start_s: float, threads: int, events: Counter[str]
) -> tuple[InputContainer, VideoStream, int, Iterator[VideoFrame]]:
    """Open a video; its next frames lead up to `start_s`, from the key frame before it or the beginning.

    The third value is the time of the very first frame in ns, from which `start_s` counts. A seek may land
    too late (transport streams have no index; the first frames of an open group of pictures need the group
    before), so the first frame found is looked at, and if it is late the seek aims further back.
    """
    container, stream = open_video(uri, threads)
    frames = _decoded(container, stream, events)
    first = next(frames, None)
    origin = 0 if first is None or first.pts is None else first.pts
    origin_ns = _ns(origin, stream)
    if first is None or not start_s:
        return container, stream, origin_ns, chain([first] if first else [], frames)
    base = stream.time_base or 1
    start = origin + round(start_s / base)
    before = Counter(events)
    for back_s in (0.0, 5.0, 60.0):
        try:
            container.seek(start - round(back_s / base), stream=stream)
            frames = _decoded(container, stream, events, from_key_frame=True)
            first = next(frames, None)
        except av.error.FFmpegError:  # not seekable: a pipe, a bare H.264 stream
            break
        if first is not None and first.pts is not None and first.pts <= start:
            return container, stream, origin_ns, chain([first], frames)
        events.clear()  # what a vain attempt met is met again by the next one
        events.update(before)
    container.close()
    container, stream = open_video(uri, threads)
    return container, stream, origin_ns, _decoded(container, stream, events)


def _timed(
    frames: Iterator[VideoFrame], stream: VideoStream, origin_ns: int, period_ns: int, events: Counter[str]
) -> Iterator[tuple[VideoFrame, int]]:
    """Frames with their times in ns; a hole in the times of an even stream is counted as missing frames.

    Matroska's reader skips damaged clusters without a word, so that the hole is all that tells of it. A
    stream is even while nine in ten steps are one period, give or take what rounding to milliseconds does.
    """
    last_ns, steps, even_steps = None, 0, 0
    for frame in frames:
        if frame.pts is not None:
            pts_ns = _ns(frame.pts, stream)
        else:
            pts_ns = origin_ns if last_ns is None else last_ns + period_ns
            events["frames_without_pts"] += 1
        if last_ns is not None:
            step_ns = pts_ns - last_ns
            if steps >= 10 and even_steps >= 0.9 * steps and step_ns > 1.5 * period_ns:
                events["missing_frames"] += round(step_ns / period_ns) - 1
            steps += 1
            even_steps += abs(step_ns - period_ns) < 1.5e6
        last_ns = pts_ns
        yield frame, pts_ns


def _decoded(
    container: InputContainer, stream: VideoStream, events: Counter[str], from_key_frame: bool = False
) -> Iterator[VideoFrame]:
    """Decode the frames, in order of time, past the broken ones."""
    held = None
    for packet in _packets(container, stream, events):
        if from_key_frame and not packet.is_keyframe:
            continue
        from_key_frame = False
        if held is not None:
            yield from _decode(stream, held, events)
            held = None
        if packet.is_corrupt:
            # The cut-off last packet of a truncated file must not reach the decoder: with frame threads its
            # error comes while the decoder is emptied, and PyAV then loses the good frames behind it.
            held = packet
            continue
        yield from _decode(stream, packet, events)
    if held is not None:
        events["broken_frames"] += 1
    yield from _decode(stream, None, events)


def _packets(container: InputContainer, stream: VideoStream, events: Counter[str]) -> Iterator[Packet]:
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except av.error.FFmpegError:
        events["read_errors"] += 1


def _decode(stream: VideoStream, packet: Packet | None, events: Counter[str]) -> list[VideoFrame]:
    try:
        return stream.codec_context.decode(packet)
    except av.error.FFmpegError:
        events["broken_frames"] += 1
        return []


def picture_of(frame: VideoFrame, matrix: np.ndarray | None = None) -> np.ndarray | YuvImage:
    """The frame in its own planes where it is of the usual kind, 8 bit 4:2:0 and upright; else as RGB.

    `matrix` is its display matrix, as `DisplayMatrix` gives it.
    """
    standard = STANDARDS.get(frame.colorspace)
    if frame.format.name not in ("yuv420p", "yuvj420p") or standard is None or matrix is not None:
        return _to_rgb(frame, matrix)
    full_range = frame.format.name == "yuvj420p" or frame.color_range == ColorRange.JPEG
    y, u, v = (_view(plane) for plane in frame.planes)
    return YuvImage(y, u, v, _matrix(standard, full_range), partial(_to_rgb, frame))


_scalers = threading.local()


@functools.cache
def _matrix(standard: str, full_range: bool) -> np.ndarray:
    """The matrix with which crops have the colours of swscale's whole pictures, `Packet.image`.

    swscale adds up tables and rounds each down, which makes its pictures darker by half a grey level a table:
    one for red and blue, two for green, and one more in limited range (measured, for all standards alike).
    """
    matrix = rgb_matrix(standard, full_range=full_range)
    matrix[:, 3] -= np.array([0.5, 1.0, 0.5]) if full_range else np.array([1.0, 1.5, 1.0])
    return matrix


def _view(plane: VideoPlane) -> np.ndarray:
    """The samples of a plane (H, W) uint8, without a copy; they keep the frame alive."""
    rows = np.frombuffer(plane, np.uint8, plane.height * plane.line_size)  # type: ignore[call-overload]
    return rows.reshape(plane.height, plane.line_size)[:, : plane.width]


def _to_rgb(frame: VideoFrame, matrix: np.ndarray | None = None) -> np.ndarray:
    """RGB uint8 (H, W, 3), C-contiguous and upright.

    swscale honours the frame's matrix (BT.601, 709, 2020) and range; unspecified means BT.601, limited range,
    as in OpenCV, with which the result then agrees to the last bit. One reformatter a thread for all frames
    saves a scaler's set-up for each; its threads would only take cores from the decoder's. 0.8 ms for
    1080x1920 on one core, where cv2.cvtColor on the planes takes 1.4 and knows nothing but BT.601.
    """
    image = _scaler().reformat(frame, format="rgb24", threads=1).to_ndarray()
    # FFmpeg pads rows to 64 bytes: widths such as 1080 need a copy here; 1920, 1280 and 640 do not.
    return np.ascontiguousarray(_upright(image, matrix))


def _scaler() -> VideoReformatter:
    """This thread's own. One that a frame makes for itself has a thread a core, for as long as it lives."""
    if not hasattr(_scalers, "reformatter"):
        _scalers.reformatter = VideoReformatter()
    scaler: VideoReformatter = _scalers.reformatter
    return scaler


class DisplayMatrix:
    """The display matrix of a video's frames, or None; looked up when their rotation changes.

    Looking at PyAV's `side_data` ties the frame into a ring that only the garbage collector undoes, and one
    frame that waits for it keeps all pictures of its decoder. Hence a look at `rotation`, which does not,
    and, where that changes, at the side data of a tiny copy.
    """

    def __init__(self) -> None:
        self._rotation: int | None = None
        self._matrix: np.ndarray | None = None

    def __call__(self, frame: VideoFrame) -> np.ndarray | None:
        """The matrix (9,) int32 of this frame."""
        if frame.rotation != self._rotation:
            self._rotation = frame.rotation
            side_data: Any = _scaler().reformat(frame, width=16, height=16, threads=1).side_data
            found = side_data.get("DISPLAYMATRIX")
            self._matrix = None if found is None else np.frombuffer(found, np.int32).copy()
        return self._matrix


def _upright(image: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Turn and mirror as the display matrix says, to the nearest quarter turn."""
    if matrix is None:
        return image
    # Row vectors: x' = a x + c y, y' = b x + d y, in 16.16 fixed point (libavutil/display.h).
    a, b, _, c, d = matrix[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, across, down = cv2.transpose(image), c, b
    else:
        across, down = a, d
    if across < 0 or down < 0:
        image = cv2.flip(image, -1 if across < 0 and down < 0 else int(across < 0))
    return image


def _ns(pts: int, stream: VideoStream) -> int:
    return to_ns(pts, stream.time_base) if stream.time_base else 0


def to_ns(pts: int, base: Fraction) -> int:
    """A time in units of `base` seconds, in ns."""
    return (pts * base.numerator * SECOND_NS + base.denominator // 2) // base.denominator


def _ends_early(container: InputContainer, stream: VideoStream, end_ns: int, period_ns: int) -> bool:
    """Whether the last frame ends well before the time that the header announces for the end."""
    if stream.duration is not None:
        return _ns((stream.start_time or 0) + stream.duration, stream) - end_ns > 1.5 * period_ns
    if container.duration is None:
        return False
    # Matroska announces the end of its longest track only, and sound may go on for a while.
    spare_ns = SECOND_NS if len(container.streams) > 1 else 1.5 * period_ns
    return container.duration * SECOND_NS // av.time_base - end_ns > spare_ns
