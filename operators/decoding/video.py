"""Frames of a video that FFmpeg opens: sought, decoded past what is broken, with their true times."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from itertools import chain
from typing import NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from engines.device.image import Image
from operators.decoding.addresses import redact, scheme_of
from operators.decoding.frame_images import HOST, Decoder, DisplayMatrix, Frames
from pipeline.errors import SourceError

SECOND_NS = 10**9
TEXT_CODECS = frozenset({"ansi", "bintext", "idf", "xbin"})  # FFmpeg draws text files as a terminal would
UNKNOWN_FPS = 30.0


class Shot(NamedTuple):
    """One frame of a source, not yet converted: only the frames that are wanted cost a conversion."""

    pts_ns: int  # on the source's own clock
    picture: Callable[[], Image | None]  # upright; None if it cannot be decoded


def video_shots(
    uri: str, start_s: float, stop_s: float, threads: int, events: Counter[str], frames: Frames = HOST
) -> Iterator[Shot]:
    """The frames of a video whose time since its beginning is in [start_s, stop_s).

    Counts in `events` what `operators.decoding.media_files.shots` documents.

    Raises:
        SourceError: if it is no video, if none of its frames can be decoded, or none is in the range.
    """
    container, stream, origin_ns, decoded = _open_at(uri, start_s, threads, events, frames)
    with container:
        display_matrix = DisplayMatrix()
        start_ns = origin_ns + round(start_s * SECOND_NS)
        stop_ns = math.inf if stop_s == math.inf else origin_ns + round(stop_s * SECOND_NS)
        period_ns = round(SECOND_NS / (rate(stream) or UNKNOWN_FPS))
        pts_ns, reached_start = None, False
        for frame, pts_ns in _timed(decoded, stream, origin_ns, period_ns, events):
            if pts_ns >= stop_ns:
                return
            if start_s and pts_ns < start_ns:
                continue
            reached_start = True
            if frame.is_corrupt:  # the decoder filled holes with guesses
                events["broken_frames"] += 1
            else:
                yield Shot(pts_ns, partial(frames.picture, frame, display_matrix(frame)))
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
    uri: str, start_s: float, threads: int, events: Counter[str], frames: Frames
) -> tuple[InputContainer, VideoStream, int, Iterator[VideoFrame]]:
    """Open a video; its next frames lead up to `start_s`, from the key frame before it or the beginning.

    The third value is the time of the very first frame in ns, from which `start_s` counts. A seek may land
    too late (transport streams have no index; the first frames of an open group of pictures need the group
    before), so the first frame found is looked at, and if it is late the seek aims further back.
    """
    container, stream = open_video(uri, threads)
    context = stream.codec_context
    decoded = _decoded(container, stream, context if start_s else frames.decoder(context), events)
    first = next(decoded, None)
    origin = 0 if first is None or first.pts is None else first.pts
    origin_ns = _ns(origin, stream)
    if first is None or not start_s:
        return container, stream, origin_ns, chain([first] if first else [], decoded)
    base = stream.time_base or 1
    start = origin + round(start_s / base)
    before = Counter(events)
    for back_s in (0.0, 5.0, 60.0):
        try:
            container.seek(start - round(back_s / base), stream=stream)
            decoded = _decoded(container, stream, frames.decoder(context), events, from_key_frame=True)
            first = next(decoded, None)
        except av.error.FFmpegError:  # not seekable: a pipe, a bare H.264 stream
            break
        if first is not None and first.pts is not None and first.pts <= start:
            return container, stream, origin_ns, chain([first], decoded)
        events.clear()  # what a vain attempt met is met again by the next one
        events.update(before)
    container.close()
    container, stream = open_video(uri, threads)
    decoder = frames.decoder(stream.codec_context)
    return container, stream, origin_ns, _decoded(container, stream, decoder, events)


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
    container: InputContainer,
    stream: VideoStream,
    decoder: Decoder,
    events: Counter[str],
    from_key_frame: bool = False,
) -> Iterator[VideoFrame]:
    """Decode the frames, in order of time, past the broken ones."""
    held = None
    for packet in _packets(container, stream, events):
        if from_key_frame and not packet.is_keyframe:
            continue
        from_key_frame = False
        if held is not None:
            yield from _decode(decoder, held, events)
            held = None
        if packet.is_corrupt:
            # The cut-off last packet of a truncated file must not reach the decoder: with frame threads its
            # error comes while the decoder is emptied, and PyAV then loses the good frames behind it.
            held = packet
            continue
        yield from _decode(decoder, packet, events)
    if held is not None:
        events["broken_frames"] += 1
    yield from _decode(decoder, None, events)


def _packets(container: InputContainer, stream: VideoStream, events: Counter[str]) -> Iterator[Packet]:
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except av.error.FFmpegError:
        events["read_errors"] += 1


def _decode(decoder: Decoder, packet: Packet | None, events: Counter[str]) -> list[VideoFrame]:
    try:
        return decoder.decode(packet)
    except av.error.FFmpegError:
        events["broken_frames"] += 1
        return []


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
