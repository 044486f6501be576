"""One connection to a camera: its own thread opens it and takes packets in, so that nobody hangs with it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

from operators.cameras.errors import LinkError, explained
from operators.decoding.addresses import ffmpeg_address, is_device, scheme_of
from operators.decoding.video import SECOND_NS, to_ns, video_stream

BEHIND_S = 1.0  # packets that have waited so long for the decoder are skipped, up to a key frame
NO_CLOCK = frozenset({"mpjpeg", "mjpeg", "h264", "hevc", "m4v", "jpeg_pipe"})  # FFmpeg would make times up
IN_PIECES = frozenset({"hls", "dash"})  # seconds of video arrive at once


@dataclass(frozen=True)
class LinkOptions:
    """How a connection is made, and after how long it counts as dead."""

    transport: str = "tcp"  # of RTSP
    threads: int = 0  # of the decoder; 0: up to four
    open_s: float = 10.0
    stall_s: float = 5.0


class Arrival(NamedTuple):
    """A packet of the stream as it came."""

    packet: Packet
    arrived_ns: int  # UNIX time, by this machine's clock
    captured_ns: int | None  # UNIX time, by the camera's clock, where it tells
    skipped: int  # packets before it that had waited too long


class Video(NamedTuple):
    """What a connection gives: the decoder for its packets, and the unit of their times."""

    context: VideoCodecContext
    time_base: Fraction
    has_clock: bool  # else the times mean nothing


class Link:
    """Connects at once, in its own thread; `take` gives what arrives, by any other thread.

    `close` never waits. The thread ends when FFmpeg lets it go, by its own limits at the latest; only a name
    look-up or a driver may hold it longer, which `hanging` tells.

    FFmpeg's RTSP reader knows that a picture is complete when the next one begins: frames are a period old
    when they arrive (41 ms by the camera's clock at 25 frames/s), and nothing is added to that.
    """

    def __init__(self, uri: str, options: LinkOptions, clock: Callable[[], int], stream: str):
        self._uri, self._options, self._clock = uri, options, clock
        self._changed = threading.Condition()
        self._arrivals: deque[Arrival] = deque()
        self._skipped = 0
        self._needs_key_frame = True
        self._closed = threading.Event()
        self._interrupted = False
        self._ended: Exception | None = None
        self._video: Video | None = None
        self.heard_s: float | None = None  # monotonic time of the last data; before any, of the opening
        self._thread = threading.Thread(target=self._work, name=f"{stream}-link", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> Arrival | None:
        """The next packet; None where none comes in time, or after `interrupt`.

        Raises:
            LinkError: the connection has ended.
            EOFError: it was a recording, and that is over.
            SourceError: it can never work.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._arrivals or self._ended or self._interrupted, timeout_s)
            if self._interrupted:
                return None
            if self._arrivals:
                return self._arrivals.popleft()
            if self._ended:
                raise self._ended
            return None

    @property
    def video(self) -> Video:
        """What its packets are; known once there are any."""
        assert self._video is not None
        return self._video

    def interrupt(self) -> None:
        """Let `take` return at once, now and ever after."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def close(self) -> None:
        """Take nothing more in. Nothing of it may be in the decoder's hands any more."""
        with self._changed:
            self._closed.set()
            self._arrivals.clear()

    @property
    def hanging(self) -> bool:
        """Whether its thread is still at work."""
        return self._thread.is_alive()

    # In its own thread

    def _work(self) -> None:
        opened = False
        try:
            with closing(self._open()) as container:
                opened = True
                self._end(self._read(container))
        except av.error.FFmpegError as error:
            limit_s = self._options.stall_s if opened else self._options.open_s
            self._end(explained(error, self._uri, limit_s, opened))
        except Exception as error:  # whatever it is, the one who waits must learn of it
            self._end(error)

    def _end(self, error: Exception) -> None:
        with self._changed:
            self._ended = error
            self._changed.notify_all()

    def _open(self) -> InputContainer:
        address, format, options = ffmpeg_address(self._uri, self._options.transport)
        return av.open(
            address,
            mode="r",
            format=format,
            options=options,
            metadata_errors="replace",
            timeout=(self._options.open_s, self._options.stall_s),
        )

    def _read(self, container: InputContainer) -> Exception:
        """Take packets in until there are no more; what that means."""
        try:
            stream = video_stream(container)
        except ValueError as error:
            return LinkError(str(error), refused=True)
        # Not frame threads: each would hold a frame back.
        stream.thread_type = "SLICE"
        stream.thread_count = self._options.threads or min(4, os.cpu_count() or 1)
        base = stream.time_base or Fraction(1, SECOND_NS)
        self._video = Video(stream.codec_context, base, container.format.name not in NO_CLOCK)
        self.heard_s = time.monotonic()
        recording = container.duration is not None and scheme_of(self._uri) in ("http", "https")
        packets: Iterable[Packet] = container.demux(stream)
        if recording or container.format.name in IN_PIECES:
            packets = self._paced(packets, base)
        for packet in packets:
            if self._closed.is_set():
                break
            if packet.size:
                self._take_in(packet, self._captured_ns(packet, base))
        return EOFError() if recording else LinkError("the other side has ended the stream")

    def _captured_ns(self, packet: Packet, base: Fraction) -> int | None:
        if is_device(self._uri):
            return None if packet.pts is None else to_ns(packet.pts, base)  # as asked for: UNIX time
        return capture_time_ns(packet)

    def _paced(self, packets: Iterable[Packet], base: Fraction) -> Iterable[Packet]:
        """Hold packets that come faster than their times say, until they are due."""
        start_s = None
        for packet in packets:
            if packet.dts is not None:
                due_s = float(packet.dts * base)
                now_s = time.monotonic()
                # Behind a gap, the clock starts anew.
                if start_s is None or not -BEHIND_S < start_s + due_s - now_s < 60:
                    start_s = now_s - due_s
                self._closed.wait(start_s + due_s - now_s)
            yield packet

    def _take_in(self, packet: Packet, captured_ns: int | None) -> None:
        now_ns = self._clock()
        with self._changed:
            if self._closed.is_set():
                return
            self.heard_s = time.monotonic()
            if packet.is_keyframe:
                self._needs_key_frame = False
            if self._needs_key_frame:  # nothing can be made of it
                self._skipped += self._skipped > 0
                return
            self._arrivals.append(Arrival(packet, now_ns, captured_ns, self._skipped))
            self._skipped = 0
            if now_ns - self._arrivals[0].arrived_ns > BEHIND_S * SECOND_NS:
                self._catch_up()
            self._changed.notify_all()

    def _catch_up(self) -> None:
        """The decoder is too slow: go on with the newest key frame, or with the next where there is none."""
        waiting = self._arrivals
        newest = max((i for i, arrival in enumerate(waiting) if arrival.packet.is_keyframe), default=0)
        left_out = [waiting.popleft() for _ in range(newest or len(waiting))]
        skipped = len(left_out) + sum(arrival.skipped for arrival in left_out)
        if waiting:
            waiting[0] = waiting[0]._replace(skipped=skipped)
        else:
            self._skipped, self._needs_key_frame = skipped, True


def capture_time_ns(packet: Packet) -> int | None:
    """When the camera took the picture, UNIX time by its clock, if FFmpeg knows it.

    It does for RTSP, once the camera has sent an RTCP sender report: AVProducerReferenceTime, of which the
    first field is the time in us (libavcodec/defs.h).
    """
    if not packet.has_sidedata("prft"):
        return None
    return int.from_bytes(bytes(packet.get_sidedata("prft"))[:8], sys.byteorder, signed=True) * 1000
