"""The kind of source that ends by itself: a video, an image, a folder of images, a URL that FFmpeg reads."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count

from engines.device.image import Image
from operators.decoding.device_frames import frame_target
from operators.decoding.frame_images import FrameTarget
from operators.decoding.media_files import IMAGE_FPS, first_frame_size, image_paths, read_frames, read_header
from operators.decoding.options import DecodeOptions
from operators.decoding.times import SECOND_NS
from pipeline.errors import SourceError
from pipeline.operator import RunInfo, Source
from pipeline.packet import Packet

log = logging.getLogger("posestream.decode")


class FileSource(Source):
    """Reads a file as fast as the graph takes its frames; in a live run, at the pace of its own clock.

    Counts what `operators.decoding.media_files.read_frames` documents.
    """

    def __init__(self, options: DecodeOptions, clock: Callable[[], int] = time.time_ns):
        """`clock` gives UNIX time in ns, the `captured_ns` of packets."""
        self._options, self._clock = options, clock
        self._live = False
        self._stopped = threading.Event()

    def open(self, run: RunInfo) -> None:
        """Learn whether the run is live."""
        self._live = run.live

    def read(self, stream: str, uri: str) -> Iterator[Packet]:
        """Yield the packets of a source.

        Raises:
            SourceError: before the first packet, if the source is missing, empty, or has no frame (in the
                range of start_s and stop_s); or there is no such GPU.
        """
        options = self._options
        target = frame_target(options.device, stream, options.surfaces, self.count)
        events: Counter[str] = Counter()
        packets, start_ns = 0, None
        try:
            for pts_ns, picture in self._repeated(uri, events, target):
                if self._live:
                    now_ns = time.monotonic_ns()
                    start_ns = now_ns - pts_ns if start_ns is None else start_ns
                    if self._stopped.wait(max(0, start_ns + pts_ns - now_ns) / SECOND_NS):
                        return
                height, width = picture.shape[:2]
                yield Packet(stream, packets, pts_ns, self._clock(), (width, height), picture)
                packets += 1
                if packets == options.max_frames:
                    return
            if not packets:
                raise SourceError(
                    f"stream {stream} has no undamaged frame between start_s and stop_s; widen them"
                )
        finally:
            for event, n in events.items():
                self.count(event, n)
            if events:
                counted = ", ".join(f"{event} {n}" for event, n in sorted(events.items()))
                log.warning("%s: %d frames given; %s", stream, packets, counted)

    def stop(self) -> None:
        """Stop waiting for the time at which the next frame is due."""
        self._stopped.set()

    def check(self, uri: str) -> None:
        """Decode the first frame.

        Raises:
            SourceError: the source is missing or empty, or no frame of it can be decoded.
        """
        first_frame_size(uri)

    def frames_expected(self, uri: str) -> int | None:
        """How many packets `read` will yield, by the header: an estimate where the rate varies.

        Raises:
            SourceError: the source cannot be read.
        """
        options = self._options
        if options.loop == 0:
            return options.max_frames
        header = read_header(uri)
        fps = header.fps if image_paths(uri) is None else options.fps or IMAGE_FPS
        frames = header.frames or (round(header.duration_s * fps) if header.duration_s else None)
        return None if frames is None or not fps else options.frames_given(frames, fps)

    def _repeated(self, uri: str, events: Counter[str], target: FrameTarget) -> Iterator[tuple[int, Image]]:
        """Times and pictures of all repetitions (`loop`); the clock goes on from one to the next."""
        options = self._options
        offset_ns = 0
        for _ in range(options.loop) if options.loop else count():
            frames = read_frames(
                uri,
                start_s=options.start_s,
                stop_s=options.stop_s,
                image_fps=options.fps or IMAGE_FPS,
                threads=options.threads,
                events=events,
                target=target,
            )
            wanted = options.frame_filter()
            times: list[int] = []  # first, last but one, last
            for frame in frames:
                if not wanted(frame.pts_ns):
                    continue
                picture = frame.picture()
                if picture is None:
                    events["broken_frames"] += 1
                    continue
                times = [*(times[:1] + times[-1:] if times else []), frame.pts_ns]
                yield frame.pts_ns + offset_ns, picture
            if not times:
                return
            period_ns = times[-1] - times[-2] if len(times) > 1 else round(SECOND_NS / IMAGE_FPS)
            offset_ns += times[-1] - times[0] + period_ns
