"""A camera, watched for weeks: connected, decoded, given continuous times, and connected again when lost."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import NamedTuple

from engines.device.image import Image
from operators.cameras.clock import StreamClock, Times
from operators.cameras.connection import Connection, ConnectionOptions
from operators.cameras.decoder import CameraDecoder, Decoded
from operators.cameras.errors import CameraError
from operators.cameras.watchdog import Watchdog
from operators.decoding.frame_images import DisplayMatrix, FrameTarget
from operators.decoding.times import SECOND_NS
from pipeline.errors import SourceError
from pipeline.packet import Event

log = logging.getLogger("posestream.decode")

STEADY_S = 5.0  # a connection that has given frames for this long resets the pauses between attempts
AWAY_S = 0.1, 1.0  # shortest and longest pause between attempts: they cost nothing, and delay costs frames
REFUSED_S = 2.0, 60.0  # the same if the camera refuses, which lasts until somebody changes its settings
HANGING_MAX = 3  # make no new connection while this many old ones hang in FFmpeg or the system


class CameraFrame(NamedTuple):
    """A frame before its conversion to an image."""

    pts_ns: int  # on a clock that continues through outages
    captured_ns: int  # UNIX time
    arrived_ns: int  # UNIX time, by this machine's clock
    picture: Callable[[], Image]


class Camera:
    """Gives the frames and events of a camera until it is stopped.

    When a connection ends, or gives no frame for `stall_s`, the event `lost` follows. Then the camera is
    connected again, with pauses between attempts that grow; the event `back` says how long it was away.

    Counts outages, outage_ms, jumps (of the camera's clock), changes (of codec or size), late_packets
    (skipped because the decoder was too slow), broken_frames, and untrusted_times (wrong times of capture).
    """

    def __init__(
        self,
        stream: str,
        uri: str,
        options: ConnectionOptions,
        *,
        attempts: int,
        count: Callable[[str, int], None],
        clock: Callable[[], int],
        target: FrameTarget,
    ):
        """Connect only in `items`.

        Args:
            stream: its name in events and log lines.
            uri: its address, resolved.
            options: of its connections.
            attempts: give up after this many failed attempts in a row; 0: never.
            count: called with the name of a count and the number to add.
            clock: UNIX time in ns.
            target: decodes the frames and makes their images.
        """
        self._stream, self._uri, self._options, self._target = stream, uri, options, target
        self._attempts, self._count, self._clock = attempts, count, clock
        self._stopped = threading.Event()
        self._connection: Connection | None = None
        self._hanging: list[Connection] = []
        self._times = StreamClock()
        self._seen_s = time.monotonic()  # of the last frame, or the beginning
        self._lost = False
        self._logged: set[str] = set()  # reasons of this outage
        self._failures = 0  # attempts in a row that gave no frame
        self._unsteady = 0  # attempts in a row that did not give frames for STEADY_S
        self._format: str | None = None  # codec and size of the frames
        self._trusted = True  # the camera's time of day is right

    def stop(self) -> None:
        """Make `items` end soon; called by another thread."""
        self._stopped.set()
        if connection := self._connection:
            connection.interrupt()

    def items(self) -> Iterator[CameraFrame | Event]:
        """Frames and events, in order.

        Raises:
            SourceError: the address can never work, or all allowed attempts have failed.
        """
        while not self._stopped.is_set():
            failure = yield from self._connect()
            if failure is None:
                return
            yield from self._note_loss(failure)
            self._failures += 1
            if self._failures == self._attempts:
                raise SourceError(f"{self._stream}: given up after {self._failures} attempts: {failure}")
            self._stopped.wait(pause_s(self._unsteady, failure.refused))
            self._unsteady += 1

    def _connect(self) -> Generator[CameraFrame | Event, None, CameraError | None]:
        """Give all frames of one connection. Returns why it ended; None if the source itself has ended."""
        self._hanging = [connection for connection in self._hanging if connection.hanging]
        if len(self._hanging) >= HANGING_MAX:
            return CameraError(f"{HANGING_MAX} earlier connections hang in the system")
        connection = Connection(self._uri, self._options, self._clock, self._stream)
        self._connection = connection
        try:
            yield from self._frames(connection)
        except CameraError as error:
            return error.with_traceback(None)  # its frames would keep the connection alive
        finally:
            connection.close()
            self._connection = None
            self._hanging.append(connection)
        return None

    def _frames(self, connection: Connection) -> Iterator[CameraFrame | Event]:
        watchdog = Watchdog(self._options.open_s, self._options.stall_s)
        display_matrix = DisplayMatrix()
        self._times.restart()
        for decoded in self._decoded(connection, watchdog):
            if watchdog.seen_s is None:
                yield from self._note_return()
            self._seen_s = watchdog.seen_s = time.monotonic()
            if self._seen_s - watchdog.started_s > STEADY_S:
                self._unsteady = 0
            yield from self._note_format(decoded.format)
            times = self._times.times(decoded.pts_ns, decoded.arrived_ns, decoded.captured_ns)
            yield from self._note_times(times)
            picture = partial(self._target.picture, decoded.frame, display_matrix(decoded.frame))
            yield CameraFrame(times.pts_ns, times.captured_ns, decoded.arrived_ns, picture)

    def _decoded(self, connection: Connection, watchdog: Watchdog) -> Iterator[Decoded]:
        decoder = None
        while not self._stopped.is_set():
            watchdog.heard_s = connection.heard_s
            try:
                arrival = connection.take(watchdog.left_s(time.monotonic()))
            except EOFError:  # the end of a recording
                yield from decoder.rest() if decoder else ()
                return
            if arrival:
                decoder = decoder or self._decoder(connection)
                yield from decoder.decode(arrival)

    def _decoder(self, connection: Connection) -> CameraDecoder:
        video = connection.video
        return CameraDecoder(video, self._target.decoder(video.context), self._count)

    # Changes of state: each is counted, logged once, and an event

    def _note_loss(self, failure: CameraError) -> Iterator[Event]:
        reason = str(failure)
        if not self._lost:
            self._lost, self._logged = True, {reason}
            self._count("outages", 1)
            log.warning("%s: lost: %s; trying again until it is back", self._stream, reason)
            yield self._event("lost", reason=reason)
        elif failure.refused and reason not in self._logged:  # it lasts until somebody changes the settings
            self._logged.add(reason)
            log.warning("%s: still lost: %s", self._stream, reason)

    def _note_return(self) -> Iterator[Event]:
        self._failures = 0
        if self._lost:
            away_s = time.monotonic() - self._seen_s
            self._lost = False
            self._count("outage_ms", round(away_s * 1e3))
            log.warning("%s: back after %.1f s", self._stream, away_s)
            yield self._event("back", resets=True, away_s=round(away_s, 3))

    def _note_format(self, format: str) -> Iterator[Event]:
        before, self._format = self._format, format
        if before not in (None, format):
            self._count("changes", 1)
            log.warning("%s: changed from %s to %s", self._stream, before, format)
            yield self._event("changed", resets=True, before=before, after=format)

    def _note_times(self, times: Times) -> Iterator[Event]:
        if times.jumped_ns is not None:
            self._count("jumps", 1)
            by_s = times.jumped_ns / SECOND_NS
            log.warning("%s: the camera's clock jumped by %.3f s, pts_ns does not", self._stream, by_s)
            yield self._event("jumped", by_s=round(by_s, 6))
        if not times.trusted:
            self._count("untrusted_times", 1)
        if times.trusted != self._trusted:
            self._trusted = times.trusted
            state = "right again" if times.trusted else "wrong; frames get their time of arrival instead"
            log.warning("%s: the camera's time of day is %s", self._stream, state)

    def _event(self, kind: str, *, resets: bool = False, **details: object) -> Event:
        return Event(self._stream, kind, self._clock(), details, resets)


def pause_s(attempts: int, refused: bool) -> float:
    """The pause after this many failed attempts: it doubles each time, up to a limit, with a random part.

    The random part keeps cameras that were lost together from being asked together.
    """
    shortest_s, longest_s = REFUSED_S if refused else AWAY_S
    return min(shortest_s * 2 ** min(attempts, 20), longest_s) * random.uniform(0.5, 1.0)
