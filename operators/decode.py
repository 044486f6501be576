"""The operator `decode`: frames of cameras, videos, image folders and images, with their true times."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Annotated, Any, Literal

from pydantic import Field

from engines.device.image import Image
from engines.device.names import DeviceOption
from operators.cameras.camera import Camera
from operators.cameras.link import LinkOptions
from operators.cameras.uri import is_camera, resolve_uri, scheme_of
from operators.decoding.device_frames import frames_on
from operators.decoding.frame_images import HOST, Frames
from operators.decoding.media_files import IMAGE_FPS, SourceProbe, image_paths, probe, shots
from operators.decoding.video import SECOND_NS
from pipeline.errors import OptionError, SourceError
from pipeline.operator import Ports, RunInfo, Source
from pipeline.packet import End, Event, Packet

__all__ = ["Decode", "SourceProbe", "probe"]

log = logging.getLogger("posestream.decode")

FPS_HELP = "thin out to this rate, by the frames' times; the rate itself for images, which have no clock (30)"
THREADS_HELP = (
    "0: slice threads if there are cores for them; n: n frame threads, faster for one stream, "
    "but damaged frames may go unnoticed"
)
TRANSPORT_HELP = "how RTSP cameras send; ?rtsp_transport=udp in an address says it for one camera"
STALL_HELP = "a camera that gives no picture for so long is lost, and connected anew"
DEVICE_HELP = "where to: cpu; cuda, a GPU's memory, by its own decoder where it can; cuda:1, that GPU's"
SURFACES_HELP = "on a GPU: most frames of a source that may be in the graph at once"
ATTEMPTS_HELP = "how often in a row to connect to a camera in vain before giving it up; 0: for ever"
OPEN_S = 10.0  # a camera must answer within so long
Device = Annotated[DeviceOption, Field(description=DEVICE_HELP)]
Transport = Literal["tcp", "udp", "udp_multicast", "http", "https"]


class Decode(Source):
    """Decode one source: a camera, whatever else FFmpeg opens, a folder of images, an image, a Kafka topic.

    provides  image   uint8 (H, W, 3) RGB, C-contiguous, upright (display matrix, EXIF)

    Most videos come as planes of YUV, which detect and pose crop as they are; `packet.image` converts.

    `pts_ns` is the stream's own clock, not moved to zero; image i of a folder is at i / fps. `seq` numbers
    the packets given, 0, 1, 2 …, whatever `stride`, `fps` and `start_s` leave out: `pts_ns` says where in the
    file a packet is from. Damaged frames are left out and counted, never given half grey.

    In a live run cameras (RTSP, RTMP, HTTP, HLS, UDP …, /dev/video0) are watched: connected anew for ever,
    nothing held back, their `pts_ns` going on through outages and jumps by the time that has passed, their
    `captured_ns` by the camera's clock where it tells and is right; what happens to them are events. Files
    play at their own pace.

    With `device: cuda` frames are decoded by the GPU and stay in its memory (`decoding.device_frames`); what
    it cannot decode is copied there, which the log tells with the reason. Damage inside of a slice the GPU
    conceals without a word: such frames are not left out. A topic's frames stay on the host.
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
        transport: Annotated[Transport, Field(description=TRANSPORT_HELP)] = "tcp",
        stall_s: Annotated[float, Field(gt=0, description=STALL_HELP)] = 5.0,
        attempts: Annotated[int, Field(ge=0, description=ATTEMPTS_HELP)] = 0,
        device: Device = "cpu",
        surfaces: Annotated[int, Field(ge=2, description=SURFACES_HELP)] = 64,
    ):
        self.stride = stride
        self.fps = fps
        self.start_s = start_s
        self.stop_s = math.inf if stop_s is None else stop_s
        self.max_frames = max_frames
        self.threads = threads
        self.loop = loop
        self.transport: Transport = transport
        self.stall_s = stall_s
        self.attempts = attempts
        self.device, self.surfaces = device, surfaces
        self._frames: Frames = HOST
        self._run: RunInfo | None = None
        self._stopped = threading.Event()
        self._camera: Camera | None = None
        self._topic: Source | None = None

    def open(self, run: RunInfo) -> None:
        """With a core or less for a source, threads within a frame only cost: a twentieth of the decoding."""
        self._run = run
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

    def read(
        self, stream: str, uri: str, clock: Callable[[], int] = time.time_ns
    ) -> Iterator[Packet | Event | End]:
        """Yield the packets of a source, and what happens to it; `clock` gives UNIX time in ns.

        In a live run a camera is watched until it is stopped, and a file played at its own pace.

        Raises:
            SourceError: before the first packet, if the source is missing, empty, or holds no picture, or if
                its address can never work; or there is no such GPU.
        """
        uri = resolve_uri(uri)
        live = self._run is not None and self._run.live
        if scheme_of(uri) == "kafka":
            return self._read_topic(stream, uri)
        self._frames = frames_on(self.device, stream, self.surfaces, self.count)
        if live and is_camera(uri):
            return self._watch(stream, uri, clock)
        return self.play(stream, uri, clock, paced=live)

    def stop(self) -> None:
        """Give no more packets."""
        self._stopped.set()
        for source in (self._camera, self._topic):
            if source:
                source.stop()

    def finished(self, packet: Packet) -> None:
        """Of interest only to a topic."""
        if self._topic:
            self._topic.finished(packet)

    def close(self) -> None:
        """Give back what a topic has opened, and the decoder with its pictures."""
        self._camera, self._frames = None, HOST
        if self._topic:
            self._topic.close()

    @property
    def counters(self) -> Counter[str]:
        """What was counted so far, a topic's own figures where one is read."""
        return self._topic.counters if self._topic else super().counters

    def _watch(self, stream: str, uri: str, clock: Callable[[], int]) -> Iterator[Packet | Event]:
        """The packets of a camera and what happens to it."""
        if self.start_s or self.stop_s != math.inf:
            raise SourceError(f"{stream} is a camera, which has no beginning: remove start_s and stop_s")
        options = LinkOptions(self.transport, self.threads, OPEN_S, self.stall_s)
        self._camera = Camera(
            stream,
            uri,
            options,
            attempts=self.attempts,
            count=self.count,
            clock=clock,
            frames=self._frames,
        )
        if self._stopped.is_set():
            return
        packets, wanted = 0, _choice(self.stride, self.fps)
        for item in self._camera.items():
            if isinstance(item, Event):
                yield item
            elif wanted(item.pts_ns):
                picture = item.picture()
                height, width = picture.shape[:2]
                yield Packet(
                    stream,
                    packets,
                    item.pts_ns,
                    item.captured_ns,
                    (width, height),
                    picture,
                    arrived_ns=item.arrived_ns,
                )
                packets += 1
                if packets == self.max_frames:
                    return

    def _read_topic(self, stream: str, uri: str) -> Iterator[Packet | Event | End]:
        """What a Kafka topic holds: frames, or packets of another run."""
        from operators.kafka_source import KafkaSource

        self._topic = KafkaSource()
        if self._run:
            self._topic.open(self._run)
        if not self._stopped.is_set():
            yield from self._topic.read(stream, uri)

    def play(
        self, stream: str, uri: str, clock: Callable[[], int] = time.time_ns, *, paced: bool = False
    ) -> Iterator[Packet]:
        """Yield the packets of what ends by itself; `paced`: not before they are due.

        Raises:
            SourceError: before the first packet, if it is missing, empty, or holds no picture.
        """
        events: Counter[str] = Counter()
        packets, start_ns = 0, None
        try:
            for pts_ns, picture in self._rounds(uri, events):
                if paced:
                    now_ns = time.monotonic_ns()
                    start_ns = now_ns - pts_ns if start_ns is None else start_ns
                    if self._stopped.wait(max(0, start_ns + pts_ns - now_ns) / SECOND_NS):
                        return
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
        if self.loop == 0 or scheme_of(uri) == "kafka":
            return self.max_frames
        uri = resolve_uri(uri)
        found = probe(uri)
        fps = found.fps if image_paths(uri) is None else self.fps or IMAGE_FPS
        frames = found.frames or (round(found.duration_s * fps) if found.duration_s else None)
        if frames is None or not fps:
            return None
        in_range = min(frames, _frames_before(self.stop_s, fps)) - _frames_before(self.start_s, fps)
        thinned = max(self.stride, fps / self.fps if self.fps else 1)
        expected = self.loop * math.ceil(max(0, in_range) / thinned - 1e-6)
        return expected if self.max_frames is None else min(expected, self.max_frames)

    def _rounds(self, uri: str, events: Counter[str]) -> Iterator[tuple[int, Image]]:
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
                frames=self._frames,
            )
            wanted = _choice(self.stride, self.fps)
            times: list[int] = []  # first, last but one, last
            for shot in found:
                if not wanted(shot.pts_ns):
                    continue
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


def _choice(stride: int, fps: float | None) -> Callable[[int], bool]:
    """Tells, by its pts_ns and in order of time, whether a frame is wanted.

    With `fps` it is the first in each period of 1 / fps: even in time also where the source's rate varies.
    One may come a tenth of a period early, since containers round times (Matroska to milliseconds).
    """
    index = count()
    first_ns, last_period = None, -1

    def every(pts_ns: int) -> bool:
        return next(index) % stride == 0

    def at_rate(pts_ns: int) -> bool:
        nonlocal first_ns, last_period
        first_ns = pts_ns if first_ns is None else first_ns
        period = math.floor((pts_ns - first_ns) * (fps or 0) / SECOND_NS + 0.1)
        newer = period > last_period
        last_period = max(period, last_period)
        return newer

    return every if fps is None else at_rate
