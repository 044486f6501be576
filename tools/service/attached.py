"""The sources of a live run: attached, detached, and what each did in the last seconds."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from operators.decoding.addresses import redact, resolve_uri
from pipeline.errors import ConfigError, SourceError
from pipeline.measurement.stats import RunStats, StreamStats
from pipeline.packet import Event
from pipeline.run import Run
from tools.options.cameras import Credentials
from tools.service.attached_stages import DIGITS, RunNow, run_now
from tools.views import fill

WINDOW_S = 10  # rates and ages are those of so many seconds
REMOVAL_S = 5  # a source is given so long to end before its removal is said to be under way

State = Literal["waiting", "running", "lost", "ended"]


class TakenError(ConfigError):
    """A source of this name is attached already."""


class UnknownError(ConfigError):
    """No source of this name is attached."""


class NotOpenError(ConfigError):
    """The run's operators are still being opened, or it is stopping."""


@dataclass(frozen=True)
class StreamNow:
    """A stream at this moment; rates, ages and instances are those of the last seconds."""

    name: str
    source: str  # its name where it carries several streams; else the stream's
    uri: str | None  # without credentials; None once its source is not read any more
    state: State
    fps: float
    age_p50_ms: float
    age_p99_ms: float
    instances: float  # a frame
    read: int
    finished: int
    dropped: int
    dropped_now: int  # of the last seconds
    counters: dict[str, int]  # what the source itself counted
    lost_since_ns: int | None = None  # UNIX time
    reason: str | None = None  # why it is lost


class Attached:
    """What is attached to a live run; any thread may ask."""

    def __init__(self, run: Run, credentials: Credentials | None = None):
        self.run = run
        self._credentials = credentials or {}
        self._open = False
        self._changing = threading.Lock()
        self._sampling = threading.Lock()
        self._samples: deque[RunStats] = deque()  # of the last seconds, the oldest first

    def start(self) -> None:
        """Open the operators and begin to read; only now sources can be added."""
        self.run.start()
        self._open = self.run.failure is None
        self.sample()  # else the first figures would be those of an arbitrarily short time

    def add(self, name: str, uri: str) -> None:
        """Attach a source.

        Raises:
            NotOpenError: not now.
            TakenError: a source of this name is attached.
            SourceError: this can never be read.
        """
        try:
            resolved = resolve_uri(uri, self._credentials.get(name))
        except ConfigError as error:
            raise SourceError(str(error)) from None
        with self._changing:
            if problems := self.problems():
                raise NotOpenError(f"cannot attach {name} now: {problems[0]}")
            if name in self.run.sources():
                raise TakenError(f"a source named {name!r} is attached already; remove it first")
            self.run.add_source(name, resolved)

    def remove(self, name: str) -> bool:
        """Detach a source, finishing what was read of it; False if it is still about to end.

        Raises:
            UnknownError: no source of this name is attached.
        """
        with self._changing:
            sources = self.run.sources()
            if name not in sources:
                known = f"there are: {', '.join(sources)}" if sources else "there are none"
                raise UnknownError(f"no source named {name!r} is attached; {known}")
            self.run.remove_source(name)
        deadline = time.monotonic() + REMOVAL_S
        while name in self.run.sources():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def problems(self) -> list[str]:
        """Why the run does not work, or not yet; none of a single source's troubles is such a reason."""
        if self.run.failure:
            return [f"the run has failed: {self.run.failure}"]
        if not self._open:
            return ["the operators are being opened"]
        return ["the run is stopping"] if self.run.stopping else []

    def sample(self) -> None:
        """Remember the run as it is now; to be called about once a second."""
        now = self.run.stats()
        with self._sampling:
            self._samples.append(now)
            while len(self._samples) > 1 and self._samples[1].seconds <= now.seconds - WINDOW_S:
                self._samples.popleft()

    def streams(self) -> list[StreamNow]:
        """All streams that have been attached in this run, those that have ended included."""
        now, window = self._now_and_lately()
        uris = self.run.sources()
        outages = {event.stream: event for event in self.run.events() if event.kind == "lost"}
        return [
            _stream(stream, lately, uris.get(stream.source), outages.get(stream.name))
            for stream, lately in zip(now.streams, window.streams, strict=True)
        ]

    def stages(self) -> RunNow:
        """The run, its stages and its edges."""
        now, window = self._now_and_lately()
        return run_now(
            self.run.graph,
            now,
            window,
            capacities=self.run.room(sum(not stream.ended for stream in now.streams)),
            sources=len(self.run.sources()),
            problems=self.problems(),
        )

    def _now_and_lately(self) -> tuple[RunStats, RunStats]:
        """The run since it began, and its last WINDOW_S seconds; all of it before there is a sample."""
        with self._sampling:
            before = self._samples[0] if self._samples else None
        now = self.run.stats()
        return now, now.since(before) if before else now

    def events(self, stream: str | None = None) -> list[Event]:
        """What happened lately, to one stream or to all, the oldest first."""
        return [event for event in self.run.events() if stream in (None, event.stream)]


def _stream(stream: StreamStats, lately: StreamStats, uri: str | None, outage: Event | None) -> StreamNow:
    lost = outage if stream.lost and uri else None
    state: State = (
        "ended" if uri is None else "lost" if stream.lost else "running" if stream.read else "waiting"
    )
    return fill(
        StreamNow,
        stream,
        digits=DIGITS,
        uri=None if uri is None else redact(uri),
        state=state,
        fps=lately.fps,
        age_p50_ms=lately.age_p50_ms,
        age_p99_ms=lately.age_p99_ms,
        instances=lately.instances_per_frame,
        dropped_now=lately.dropped,
        lost_since_ns=lost.at_ns if lost else None,
        reason=lost.details.get("reason") if lost else None,
    )
