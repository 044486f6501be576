"""The kind of source that is live: a camera, kept connected until it is stopped."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator

from operators.cameras.camera import Camera
from operators.cameras.connection import ConnectionOptions
from operators.decoding.device_frames import frame_target
from operators.decoding.options import DecodeOptions
from pipeline.errors import SourceError
from pipeline.operator import Source
from pipeline.packet import Event, Packet

OPEN_S = 10.0  # a camera must answer within this time


class CameraSource(Source):
    """Reads one camera; counts what `operators.cameras.camera.Camera` documents."""

    def __init__(self, options: DecodeOptions, clock: Callable[[], int] = time.time_ns):
        """`clock` gives UNIX time in ns; `captured_ns` and `arrived_ns` follow it."""
        self._options, self._clock = options, clock
        self._camera: Camera | None = None
        self._stopped = threading.Event()

    def read(self, stream: str, uri: str) -> Iterator[Packet | Event]:
        """Yield the packets of a camera and its events (lost, back, …) until it is stopped.

        Raises:
            SourceError: the address can never work, there is no such GPU, or as many attempts to connect as
                are allowed have failed in a row.
        """
        options = self._options
        if options.start_s or options.stop_s != math.inf:
            raise SourceError(f"{stream} is a camera, which has no beginning: remove start_s and stop_s")
        self._camera = Camera(
            stream,
            uri,
            ConnectionOptions(options.transport, options.threads, OPEN_S, options.stall_s),
            attempts=options.attempts,
            count=self.count,
            clock=self._clock,
            target=frame_target(options.device, stream, options.surfaces, self.count),
        )
        if self._stopped.is_set():
            return
        packets, wanted = 0, options.frame_filter()
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
                if packets == options.max_frames:
                    return

    def stop(self) -> None:
        """End `read` soon, even while the camera is silent."""
        self._stopped.set()
        if camera := self._camera:
            camera.stop()

    def close(self) -> None:
        """Release the decoder and its frames."""
        self._camera = None
