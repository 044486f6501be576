"""The sources of a live run: attach them, detach them, and see what each did in the last seconds."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from operators.decoding.addresses import redact, resolve_uri
from pipeline.errors import ConfigError, SourceError
from pipeline.measurement.run_stats import RunStats
from pipeline.measurement.stream_stats import StreamStats
from pipeline.packet import Event
from pipeline.run import Run
from tools.options.cameras import Credentials
from tools.service.attached_stages import DIGITS, RunNow, run_now
from tools.views import fill

WINDOW_S = 10  # how long "the last seconds" are: rates and ages are computed over them
REMOVAL_S = 5  # how long `remove` waits for a source to end before it reports that the removal goes on

State = Literal["waiting", "running", "lost", "ended"]


class TakenError(ConfigError):
    """A source of this name is attached already."""


class UnknownError(ConfigError):
    """No source of this name is attached."""


class NotOpenError(ConfigError):
    """The run's operators are still being opened, or the run is stopping."""


@dataclass(frozen=True)
class StreamNow:
    """A stream at this moment; `fps`, ages and `instances` are those of the last seconds."""

    name: str
    source: str  # the source that gives it; other than `name` only where a source carries several streams
    uri: str | None  # without credentials; None once its source is no longer read
    state: State
    fps: float
    age_p50_ms: float
    age_p99_ms: float
    instances: float  # per frame
    read: int
    finished: int
    dropped: int
    dropped_now: int  # in the last seconds
    counters: dict[str, int]  # what the source itself counted
    lost_since_ns: int | None = None  # UNIX time
    reason: str | None = None  # why it is lost


class Attached:
    """The sources that are attached to a live run; may be called from any thread."""

    def __init__(self, run: Run, credentials: Credentials | None = None):
        self.run = run
        self._credentials = credentials or {}
        self._open = False
        self._changing = threading.Lock()
        self._sampling = threading.Lock()
        self._samples: deque[RunStats] = deque()  # of the last seconds, the oldest first

    def start(self) -> None:
        """Open the operators and begin to read; sources can be added from now on."""
        self.run.start()
        self._open = self.run.failure is None
        self.sample()  # so that the first rates cover the time since this moment

    def add(self, name: str, uri: str) -> None:
        """Attach a source.

        Raises:
            NotOpenError: the operators are being opened, or the run is stopping.
            TakenError: a source of this name is attached.
            SourceError: the URI can never be read.
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
        """Detach a source and finish the frames that were read; False if it has not ended within REMOVAL_S.

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
        """Why the run does not work, or not yet. Problems of single sources are not among them."""
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
        """All streams that were attached in this run, ended ones included."""
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
        """The last events of one stream or of all, the oldest first."""
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
