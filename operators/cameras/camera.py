"""A camera, watched for weeks: connected, decoded, timed, and connected again whenever it is lost."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import NamedTuple

from engines.device.image import Image
from operators.cameras.clock import SECOND_NS, StreamClock, Times
from operators.cameras.connection import Link, LinkOptions
from operators.cameras.decoder import CameraDecoder, Decoded
from operators.cameras.errors import LinkError
from operators.cameras.watchdog import Watchdog
from operators.decoding.frame_images import HOST, DisplayMatrix, Frames
from pipeline.errors import SourceError
from pipeline.packet import Event

log = logging.getLogger("posestream.decode")

STEADY_S = 5.0  # a connection that has lived so long was a success
AWAY_S = 0.1, 1.0  # shortest and longest pause between attempts: asking costs nothing, being late does
REFUSED_S = 2.0, 60.0  # the same where the camera has said no, which only somebody can change
HANGING_MAX = 3  # connections that neither FFmpeg nor the system lets go of, before no more are made


class CameraFrame(NamedTuple):
    """A frame, not yet converted."""

    pts_ns: int  # on a clock that goes on through outages
    captured_ns: int  # UNIX time
    arrived_ns: int  # UNIX time, by this machine's clock
    picture: Callable[[], Image]


class Camera:
    """Gives the frames of a camera and what happens to it, until it is stopped.

    A connection that ends, or gives no picture for `stall_s`, is an event `lost`, and `back` tells how long
    it was away; in between it is tried again, with pauses that grow. `attempts` vain ones in a row end it
    (0: never). `count` is told of outages, outage_ms, jumps, changes, late_packets (skipped because the
    decoder was too slow), broken_frames and untrusted_times. `frames` decodes and makes the pictures.
    """

    def __init__(
        self,
        stream: str,
        uri: str,
        options: LinkOptions,
        *,
        attempts: int,
        count: Callable[[str, int], None],
        clock: Callable[[], int],
        frames: Frames = HOST,
    ):
        self._stream, self._uri, self._options, self._made_by = stream, uri, options, frames
        self._attempts, self._count, self._clock = attempts, count, clock
        self._stopped = threading.Event()
        self._link: Link | None = None
        self._hanging: list[Link] = []
        self._times = StreamClock()
        self._seen_s = time.monotonic()  # the last picture, or the beginning
        self._lost = False
        self._said: set[str] = set()  # what the log knows of this outage
        self._vain = 0  # attempts in a row that gave no picture
        self._tries = 0  # attempts in a row that gave none for long
        self._kind: str | None = None  # of the pictures: codec and size
        self._trusted = True

    def stop(self) -> None:
        """Make `items` end soon; by another thread."""
        self._stopped.set()
        if link := self._link:
            link.interrupt()

    def items(self) -> Iterator[CameraFrame | Event]:
        """Frames and events, in order.

        Raises:
            SourceError: it can never work, or has been tried as often as allowed.
        """
        while not self._stopped.is_set():
            failure = yield from self._connect()
            if failure is None:
                return
            yield from self._lose(failure)
            self._vain += 1
            if self._vain == self._attempts:
                raise SourceError(f"{self._stream}: given up after {self._vain} attempts: {failure}")
            self._stopped.wait(pause_s(self._tries, failure.refused))
            self._tries += 1

    def _connect(self) -> Generator[CameraFrame | Event, None, LinkError | None]:
        """Everything one connection gives, and why it ended; None if that is all there is."""
        self._hanging = [link for link in self._hanging if link.hanging]
        if len(self._hanging) >= HANGING_MAX:
            return LinkError(f"{HANGING_MAX} earlier connections hang in the system")
        link = self._link = Link(self._uri, self._options, self._clock, self._stream)
        try:
            yield from self._frames(link)
        except LinkError as error:
            return error.with_traceback(None)  # whose frames would keep the connection
        finally:
            link.close()
            self._link = None
            self._hanging.append(link)
        return None

    def _frames(self, link: Link) -> Iterator[CameraFrame | Event]:
        watchdog = Watchdog(self._options.open_s, self._options.stall_s)
        display_matrix = DisplayMatrix()
        self._times.restart()
        for decoded in self._decoded(link, watchdog):
            if watchdog.seen_s is None:
                yield from self._come_back()
            self._seen_s = watchdog.seen_s = time.monotonic()
            if self._seen_s - watchdog.started_s > STEADY_S:
                self._tries = 0
            yield from self._note_kind(decoded.kind)
            times = self._times.times(decoded.pts_ns, decoded.arrived_ns, decoded.captured_ns)
            yield from self._note_times(times)
            picture = partial(self._made_by.picture, decoded.frame, display_matrix(decoded.frame))
            yield CameraFrame(times.pts_ns, times.captured_ns, decoded.arrived_ns, picture)

    def _decoded(self, link: Link, watchdog: Watchdog) -> Iterator[Decoded]:
        decoder = None
        while not self._stopped.is_set():
            watchdog.heard_s = link.heard_s
            try:
                arrival = link.take(watchdog.left_s(time.monotonic()))
            except EOFError:  # of a recording
                yield from decoder.rest() if decoder else ()
                return
            if arrival:
                decoder = decoder or self._decoder(link)
                yield from decoder.decode(arrival)

    def _decoder(self, link: Link) -> CameraDecoder:
        return CameraDecoder(link.video, self._made_by.decoder(link.video.context), self._count)

    # What happens to it

    def _lose(self, failure: LinkError) -> Iterator[Event]:
        reason = str(failure)
        if not self._lost:
            self._lost, self._said = True, {reason}
            self._count("outages", 1)
            log.warning("%s: lost: %s; trying again until it is back", self._stream, reason)
            yield self._event("lost", reason=reason)
        elif failure.refused and reason not in self._said:  # somebody has to do something
            self._said.add(reason)
            log.warning("%s: still lost: %s", self._stream, reason)

    def _come_back(self) -> Iterator[Event]:
        self._vain = 0
        if self._lost:
            away_s = time.monotonic() - self._seen_s
            self._lost = False
            self._count("outage_ms", round(away_s * 1e3))
            log.warning("%s: back after %.1f s", self._stream, away_s)
            yield self._event("back", resets=True, away_s=round(away_s, 3))

    def _note_kind(self, kind: str) -> Iterator[Event]:
        before, self._kind = self._kind, kind
        if before not in (None, kind):
            self._count("changes", 1)
            log.warning("%s: changed from %s to %s", self._stream, before, kind)
            yield self._event("changed", resets=True, before=before, after=kind)

    def _note_times(self, times: Times) -> Iterator[Event]:
        if times.jumped_ns is not None:
            self._count("jumps", 1)
            by_s = times.jumped_ns / SECOND_NS
            log.warning("%s: its clock has jumped by %.3f s; its times go on without", self._stream, by_s)
            yield self._event("jumped", by_s=round(by_s, 6))
        if not times.trusted:
            self._count("untrusted_times", 1)
        if times.trusted != self._trusted:
            self._trusted = times.trusted
            says = "is right again" if times.trusted else "is wrong; frames are dated by their arrival"
            log.warning("%s: the camera's time of day %s", self._stream, says)

    def _event(self, kind: str, *, resets: bool = False, **details: object) -> Event:
        return Event(self._stream, kind, self._clock(), details, resets)


def pause_s(tries: int, refused: bool) -> float:
    """How long to wait after so many vain tries: twice as long each time, and never as long as others do."""
    shortest_s, longest_s = REFUSED_S if refused else AWAY_S
    return min(shortest_s * 2 ** min(tries, 20), longest_s) * random.uniform(0.5, 1.0)
