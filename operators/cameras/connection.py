"""One connection to a camera, read by a thread of its own, so that no other thread hangs with it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

from operators.cameras.errors import CameraError, camera_error
from operators.cameras.packet_queue import BEHIND_S, Arrival, PacketQueue
from operators.decoding.addresses import ffmpeg_address, is_device, scheme_of
from operators.decoding.times import SECOND_NS, to_ns
from operators.decoding.video import video_stream

# Formats without times of their own; FFmpeg would invent them.
WITHOUT_CLOCK = frozenset({"mpjpeg", "mjpeg", "h264", "hevc", "m4v", "jpeg_pipe"})
SEGMENTED = frozenset({"hls", "dash"})  # formats in which seconds of video arrive at once
PACE_MAX_S = 60.0  # a packet that is due later than this comes after a gap in the times: do not wait for it


@dataclass(frozen=True)
class ConnectionOptions:
    """How to connect, and when a connection counts as dead."""

    transport: str  # of RTSP
    threads: int  # of the decoder; 0: up to four
    open_s: float  # the camera must answer within this time
    stall_s: float  # and must never be silent for longer than this


class Video(NamedTuple):
    """The video that a connection delivers."""

    context: VideoCodecContext  # the decoder for its packets
    time_base: Fraction  # the unit of their times, seconds
    has_clock: bool  # otherwise their times mean nothing


class Connection:
    """Connects at once, in a thread of its own; `take` gives the packets that arrive, to any other thread.

    `close` never waits for that thread. It ends when FFmpeg returns, after FFmpeg's own time-outs at the
    latest; only a name look-up or a driver may keep it longer, see `hanging`.

    FFmpeg's RTSP reader knows that a frame is complete when the next one begins, so frames are a period old
    when they arrive (41 ms by the camera's clock at 25 frames/s). Nothing here adds to that.
    """

    def __init__(self, uri: str, options: ConnectionOptions, clock: Callable[[], int], stream: str):
        """`clock` gives UNIX time in ns; `stream` names the thread."""
        self._uri, self._options = uri, options
        self._queue = PacketQueue(clock)
        self._video: Video | None = None
        self.heard_s: float | None = None  # monotonic time of opening, then of the last packet
        self._thread = threading.Thread(target=self._work, name=f"{stream}-camera", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> Arrival | None:
        """The next packet; None if none comes in time, or after `interrupt`.

        Raises:
            CameraError: the connection has ended, or could not be made.
            EOFError: it was a recording, which has ended.
            SourceError: the address can never work.
        """
        return self._queue.take(timeout_s)

    @property
    def video(self) -> Video:
        """What the packets hold; known once `take` has given the first one."""
        assert self._video is not None
        return self._video

    def interrupt(self) -> None:
        """Make `take` return at once, now and from now on."""
        self._queue.interrupt()

    def close(self) -> None:
        """Accept no more packets. The decoder must no longer be in use."""
        self._queue.close()

    @property
    def hanging(self) -> bool:
        """Whether its thread has not ended yet."""
        return self._thread.is_alive()

    # In its own thread

    def _work(self) -> None:
        opened = False
        try:
            with closing(self._open()) as container:
                opened = True
                self._queue.end(self._read(container))
        except av.error.FFmpegError as error:
            limit_s = self._options.stall_s if opened else self._options.open_s
            self._queue.end(camera_error(error, self._uri, limit_s, opened))
        except Exception as error:  # any error: the thread that waits in `take` must get it
            self._queue.end(error)

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
        """Queue packets until there are no more. Returns the error that says why."""
        try:
            stream = video_stream(container)
        except ValueError as error:
            return CameraError(str(error), refused=True)
        stream.thread_type = "SLICE"  # frame threads would each hold a frame back
        stream.thread_count = self._options.threads or min(4, os.cpu_count() or 1)
        time_base = stream.time_base or Fraction(1, SECOND_NS)
        self._video = Video(stream.codec_context, time_base, container.format.name not in WITHOUT_CLOCK)
        self.heard_s = time.monotonic()
        recording = container.duration is not None and scheme_of(self._uri) in ("http", "https")
        packets: Iterable[Packet] = container.demux(stream)
        if recording or container.format.name in SEGMENTED:
            packets = self._paced(packets, time_base)
        for packet in packets:
            if self._queue.closed.is_set():
                break
            if packet.size:
                self.heard_s = time.monotonic()
                self._queue.put(packet, self._captured_ns(packet, time_base))
        return EOFError() if recording else CameraError("the other side has ended the stream")

    def _captured_ns(self, packet: Packet, time_base: Fraction) -> int | None:
        if is_device(self._uri):
            return None if packet.pts is None else to_ns(packet.pts, time_base)  # UNIX time: timestamps=abs
        return capture_time_ns(packet)

    def _paced(self, packets: Iterable[Packet], time_base: Fraction) -> Iterable[Packet]:
        """Hold packets that come earlier than their times say until they are due."""
        start_s = None
        for packet in packets:
            if packet.dts is not None:
                due_s = float(packet.dts * time_base)
                now_s = time.monotonic()
                if start_s is None or not -BEHIND_S < start_s + due_s - now_s < PACE_MAX_S:
                    start_s = now_s - due_s
                self._queue.closed.wait(start_s + due_s - now_s)
            yield packet


def capture_time_ns(packet: Packet) -> int | None:
    """When the camera took the frame, UNIX time by its clock; None if FFmpeg does not know it.

    FFmpeg knows it for RTSP, from the camera's first RTCP sender report on. It is the first field of
    AVProducerReferenceTime, in us (libavcodec/defs.h).
    """
    if not packet.has_sidedata("prft"):
        return None
    return int.from_bytes(bytes(packet.get_sidedata("prft"))[:8], sys.byteorder, signed=True) * 1000
