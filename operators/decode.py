"""The operator `decode`: frames of cameras, videos, image folders and images, with their true times."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from engines.device.names import DeviceOption
from operators.cameras.camera_source import CameraSource
from operators.decoding.addresses import is_camera, resolve_uri, scheme_of
from operators.decoding.file_source import FileSource
from operators.decoding.options import DecodeOptions, Transport
from pipeline.errors import OptionError
from pipeline.operator import Ports, RunInfo, Source
from pipeline.packet import End, Event, Packet

FPS_HELP = "keep about this many frames per second, by the frames' times; for images, their rate (30)"
THREADS_HELP = (
    "0: slice threads if there are cores for them; n: n frame threads, faster for one stream, "
    "but damaged frames may not be noticed"
)
TRANSPORT_HELP = "how RTSP cameras send; ?rtsp_transport=udp in an address sets it for one camera"
STALL_HELP = "a camera that gives no frame for this many seconds is lost, and connected again"
DEVICE_HELP = "where frames are kept: cpu; cuda, on a GPU, which decodes them if it can; cuda:1, on that GPU"
SURFACES_HELP = "on a GPU: most frames of a source that may be in the graph at once"
ATTEMPTS_HELP = "give a camera up after this many failed attempts to connect in a row; 0: never"
Device = Annotated[DeviceOption, Field(description=DEVICE_HELP)]


class Kind(NamedTuple):
    """A kind of source: which addresses it reads, in a live run or in one on files, and how to make it."""

    reads: Callable[[str, bool], bool]  # address, live
    make: Callable[[DecodeOptions, Callable[[], int]], Source]  # options, clock (UNIX time in ns)


def _topic(options: DecodeOptions, clock: Callable[[], int]) -> Source:
    from operators.kafka_source import KafkaSource  # the command should start without importing kafka

    return KafkaSource()


# The first kind that fits reads an address. To add a kind, write a `Source` in a file of its own and add a
# line here; a new scheme (as kafka in kafka://…) must also be listed in `decoding.addresses`.
KINDS = (
    Kind(lambda uri, live: scheme_of(uri) == "kafka", _topic),
    Kind(lambda uri, live: live and is_camera(uri), CameraSource),
    Kind(lambda uri, live: True, FileSource),
)


class Decode(Source):
    """Decode one source: a camera, a video or URL that FFmpeg reads, a folder of images, an image, a topic.

    provides  image   uint8 (H, W, 3) RGB, C-contiguous, upright (display matrix, EXIF)

    Most videos are given as planes of YUV, which `detect` and `pose` crop directly; `packet.image` converts.

    `pts_ns` is the stream's own clock, which need not start at zero; image i of a folder is at i / fps. `seq`
    numbers the packets 0, 1, 2 …, whatever `stride`, `fps` and `start_s` leave out; `pts_ns` says which part
    of the file a packet comes from. Damaged frames are left out and counted, never given half grey.

    In a live run cameras (RTSP, RTMP, HTTP, HLS, UDP …, /dev/video0) are watched. A camera that is lost is
    connected again, for ever; frames are not held back; `pts_ns` goes on through outages and clock jumps by
    the time that has passed; `captured_ns` is the camera's own time if the camera gives one and it is right.
    Outages, changes of size and clock jumps are events. Files are played at their own pace.

    With `device: cuda` the GPU decodes and the frames stay in its memory (`decoding.device_frames`). Videos
    that it cannot decode are decoded on the processor and copied; the log gives the reason. The GPU conceals
    damage inside of a slice without marking it, so such frames are not left out. The frames of a topic stay
    on the host.
    """

    def __init__(
        self,
        stride: Annotated[int, Field(ge=1, description="give every n-th frame")] = 1,
        fps: Annotated[float | None, Field(gt=0, description=FPS_HELP)] = None,
        start_s: Annotated[float, Field(ge=0, description="first frame, seconds from the beginning")] = 0.0,
        stop_s: Annotated[
            float | None, Field(gt=0, description="end, seconds from the beginning, exclusive")
        ] = None,
        max_frames: Annotated[int | None, Field(ge=1, description="most packets of a source")] = None,
        threads: Annotated[int, Field(ge=0, description=THREADS_HELP)] = 0,
        loop: Annotated[int, Field(ge=0, description="how often to play a file; 0: for ever")] = 1,
        transport: Annotated[Transport, Field(description=TRANSPORT_HELP)] = "tcp",
        stall_s: Annotated[float, Field(gt=0, description=STALL_HELP)] = 5.0,
        attempts: Annotated[int, Field(ge=0, description=ATTEMPTS_HELP)] = 0,
        device: Device = "cpu",
        surfaces: Annotated[int, Field(ge=2, description=SURFACES_HELP)] = 64,
    ):
        self.options = DecodeOptions(
            stride=stride,
            fps=fps,
            start_s=start_s,
            stop_s=math.inf if stop_s is None else stop_s,
            max_frames=max_frames,
            threads=threads,
            loop=loop,
            transport=transport,
            stall_s=stall_s,
            attempts=attempts,
            device=device,
            surfaces=surfaces,
        )
        self._run: RunInfo | None = None
        self._source: Source | None = None  # that is being read
        self._stopped = threading.Event()

    def open(self, run: RunInfo) -> None:
        """Keep what is known of the run."""
        self._run = run
        # With one core per source, threads within a frame only cost: about 5 % of the decoding.
        if self.options.threads == 0 and run.cores == 1:
            self.options = dataclasses.replace(self.options, threads=1)

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """Refuse options that contradict each other.

        Raises:
            OptionError: stride together with fps, or a stop_s that is not after start_s.
        """
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
        """Yield the packets and events of a source; `clock` gives UNIX time in ns.

        Raises:
            SourceError: before the first packet, if the source is missing, empty, or has no frames, if its
                address can never work, or there is no such GPU; later, if a camera is given up.
        """
        source, uri = self._source_for(uri, clock)
        source.counters.update(self.counters)  # the run may have put there what it counted before
        self._source = source
        if self._run:
            source.open(self._run)
        return iter(()) if self._stopped.is_set() else source.read(stream, uri)

    def stop(self) -> None:
        """End `read` soon."""
        self._stopped.set()
        if source := self._source:
            source.stop()

    def finished(self, packet: Packet) -> None:
        """Pass on that the packet has left the graph: a topic then commits it."""
        if self._source:
            self._source.finished(packet)

    def close(self) -> None:
        """Release what the source has opened."""
        if self._source:
            self._source.close()

    @property
    def counters(self) -> Counter[str]:
        """What the source has counted so far."""
        return self._source.counters if self._source else super().counters

    def take_dropped(self) -> Sequence[tuple[Packet, str]]:
        """The packets that the source has dropped since the last call, with the reasons."""
        return self._source.take_dropped() if self._source else super().take_dropped()

    def check(self, uri: str) -> None:
        """Decode the first frame of a source; of a topic, only check the address.

        Raises:
            SourceError: it is missing, empty, or holds no picture, or its address can never work.
        """
        source, uri = self._source_for(uri)
        source.check(uri)

    def frames_expected(self, uri: str) -> int | None:
        """How many packets `read` will yield, if the kind of source can tell."""
        source, uri = self._source_for(uri)
        return source.frames_expected(uri)

    def _source_for(self, uri: str, clock: Callable[[], int] = time.time_ns) -> tuple[Source, str]:
        """What reads an address, and the address with its variables filled in.

        Raises:
            SourceError: the address can never work.
        """
        uri = resolve_uri(uri)
        live = self._run is not None and self._run.live
        return next(kind.make(self.options, clock) for kind in KINDS if kind.reads(uri, live)), uri
