"""Frames of a video that FFmpeg opens: exact seeking, damaged frames skipped and counted, true times."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
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
from operators.decoding.frame_images import HOST, Decoder, DisplayMatrix, FrameTarget
from operators.decoding.times import SECOND_NS, to_ns
from pipeline.errors import SourceError

TEXT_CODECS = frozenset({"ansi", "bintext", "idf", "xbin"})  # FFmpeg renders text files as video
UNKNOWN_FPS = 30.0


class SourceFrame(NamedTuple):
    """A frame of a source; call `picture` to convert it to an image, for frames that are needed only."""

    pts_ns: int  # on the source's own clock
    picture: Callable[[], Image | None]  # upright; None if it cannot be decoded


def video_frames(
    uri: str, start_s: float, stop_s: float, threads: int, events: Counter[str], target: FrameTarget = HOST
) -> Iterator[SourceFrame]:
    """The frames of a video whose time since its beginning is in [start_s, stop_s).

    Counts in `events` what `operators.decoding.media_files.read_frames` documents.

    Raises:
        SourceError: it is not a video, none of its frames can be decoded, or none is in the range.
    """
    container, stream, origin_ns, decoded = _open_at(uri, start_s, threads, events, target)
    with container:
        display_matrix = DisplayMatrix()
        start_ns = origin_ns + round(start_s * SECOND_NS)
        stop_ns = math.inf if stop_s == math.inf else origin_ns + round(stop_s * SECOND_NS)
        period_ns = round(SECOND_NS / (frame_rate(stream) or UNKNOWN_FPS))
        pts_ns, reached_start = None, False
        for frame, pts_ns in _timed(decoded, stream, origin_ns, period_ns, events):
            if pts_ns >= stop_ns:
                return
            if start_s and pts_ns < start_ns:
                continue
            reached_start = True
            if frame.is_corrupt:  # the decoder has filled in missing parts
                events["broken_frames"] += 1
            else:
                yield SourceFrame(pts_ns, partial(target.picture, frame, display_matrix(frame)))
        if pts_ns is None:
            codec = stream.codec_context.name
            raise unreadable(uri, f"not one frame of its {codec} stream can be decoded")
        if not reached_start:
            raise starts_too_late(uri, start_s, (pts_ns - origin_ns) / SECOND_NS)
        if _ends_early(container, stream, pts_ns + period_ns, period_ns):
            events["truncated"] += 1


def open_video(uri: str, threads: int) -> tuple[InputContainer, VideoStream]:
    """Open a container and find its video stream; the caller closes the container.

    Never call `av.logging.set_level`. Without it PyAV does not print FFmpeg's messages; with it, each message
    takes the interpreter lock from within FFmpeg's threads and may deadlock.

    Args:
        uri: a path or URL.
        threads: 0: slice threads; n: n frame threads.

    Raises:
        SourceError: FFmpeg cannot open it, or finds no video in it.
    """
    try:
        # Without "file:", FFmpeg takes "horse" in "horse:1.mp4" for a protocol.
        address = uri if scheme_of(uri) else f"file:{uri}"
        container = av.open(address, mode="r", metadata_errors="replace")
    except av.error.FFmpegError as error:  # its own text holds the address, and so the password
        raise unreadable(uri, f"FFmpeg cannot open it ({error.strerror})") from None
    try:
        stream = video_stream(container)
    except ValueError as error:
        container.close()
        raise unreadable(uri, str(error)) from None
    # Frame threads save 13 to 40 % of the time for one 1080x1920 stream on 2 cores, and nothing for four
    # streams. But a frame may be given before its damage is marked: on a truncated file, 6 to 50 of 100 runs
    # gave the half grey frame as a good one. Slice threads are exact; they help VP9 and sliced H.264, and
    # cost the other codecs nothing.
    stream.thread_type = "AUTO" if threads else "SLICE"
    stream.thread_count = threads or min(4, os.cpu_count() or 1)
    return container, stream


def video_stream(container: InputContainer) -> VideoStream:
    """The video stream of a container.

    Raises:
        ValueError: it has none that can be decoded; the text says what it has instead.
    """
    # For FFmpeg, the cover of a music file is a video stream.
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    context = streams[0].codec_context if streams else None
    if context is None or context.name in TEXT_CODECS:
        if streams and context is None:
            raise ValueError("this FFmpeg has no decoder for its video")
        others = sorted({str(s.type) for s in container.streams if s.type != "video"})
        raise ValueError(f"there is no video in it, only {' and '.join(others) or 'text'}")
    return streams[0]


def frame_rate(stream: VideoStream) -> float:
    """Frames per second on average; 0 if the stream does not say."""
    return float(stream.average_rate or stream.guessed_rate or 0)


def duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    """The duration by the header, None if it gives none."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def unreadable(uri: str, found: str) -> SourceError:
    """The error for a source in which no frames can be read; `found` says what was found instead."""
    return SourceError(
        f"cannot read {redact(uri)}: {found}; expected a video, an image or a folder of images"
    )


def starts_too_late(uri: str, start_s: float, last_s: float) -> SourceError:
    """The error for a `start_s` later than the last frame, at `last_s`."""
    return SourceError(
        f"start_s is {start_s:g} s, the last frame of {redact(uri)} is at {last_s:g} s; choose less"
    )


def _open_at(
    uri: str, start_s: float, threads: int, events: Counter[str], target: FrameTarget
) -> tuple[InputContainer, VideoStream, int, Iterator[VideoFrame]]:
    """Open a video and decode from `start_s`, or from an earlier frame if `start_s` cannot be sought exactly.

    A seek may land too late: transport streams have no index, and the first frames of an open group of
    pictures need the group before. So check the first frame found, and seek further back if it is late.

    Returns:
        The container, which the caller closes; its video stream; the time of the very first frame in ns, from
        which `start_s` counts; and the frames, which begin at `start_s` or earlier.
    """
    container, stream = open_video(uri, threads)
    context = stream.codec_context
    decoded = _decoded(container, stream, context if start_s else target.decoder(context), events)
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
            decoded = _decoded(container, stream, target.decoder(context), events, from_key_frame=True)
            first = next(decoded, None)
        except av.error.FFmpegError:  # cannot be sought: a pipe, a bare H.264 stream
            break
        if first is not None and first.pts is not None and first.pts <= start:
            return container, stream, origin_ns, chain([first], decoded)
        events.clear()  # the next attempt will count again what this one has met
        events.update(before)
    container.close()
    container, stream = open_video(uri, threads)
    decoder = target.decoder(stream.codec_context)
    return container, stream, origin_ns, _decoded(container, stream, decoder, events)


def _timed(
    frames: Iterator[VideoFrame], stream: VideoStream, origin_ns: int, period_ns: int, events: Counter[str]
) -> Iterator[tuple[VideoFrame, int]]:
    """Frames with their times in ns; count gaps in the times of a stream of even rate as missing frames.

    FFmpeg's Matroska reader skips damaged clusters silently: the gap is the only sign of them. A stream has
    an even rate while nine in ten steps are one period long, within the error of rounding to milliseconds.
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
    """Decode the frames in order of time; skip and count broken ones."""
    corrupt = None
    for packet in _packets(container, stream, events):
        if from_key_frame and not packet.is_keyframe:
            continue
        from_key_frame = False
        if corrupt is not None:
            yield from _decode(decoder, corrupt, events)
            corrupt = None
        if packet.is_corrupt:
            # Keep the incomplete last packet of a truncated file from the decoder: with frame threads its
            # error is raised when the decoder is flushed, and PyAV then loses the good frames after it.
            corrupt = packet
            continue
        yield from _decode(decoder, packet, events)
    if corrupt is not None:
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


def _ends_early(container: InputContainer, stream: VideoStream, end_ns: int, period_ns: int) -> bool:
    """Whether the last frame ends clearly earlier than the header says."""
    if stream.duration is not None:
        return _ns((stream.start_time or 0) + stream.duration, stream) - end_ns > 1.5 * period_ns
    if container.duration is None:
        return False
    # Matroska gives the duration of its longest track only, and sound may last longer than the video.
    spare_ns = SECOND_NS if len(container.streams) > 1 else 1.5 * period_ns
    return container.duration * SECOND_NS // av.time_base - end_ns > spare_ns
