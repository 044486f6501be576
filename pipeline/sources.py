"""The sources of a run: those being read, those that have ended, and the sums of long ended ones."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from pipeline.edges.edge import Edge
from pipeline.edges.pace import Pace
from pipeline.errors import ConfigError, PosestreamError, SourceError
from pipeline.finished import Finished
from pipeline.measurement.metrics import WorkerMetrics
from pipeline.measurement.stage_stats import StageStats
from pipeline.measurement.stream_stats import PastStreams, StreamStats
from pipeline.node import Node
from pipeline.operator import Source
from pipeline.packet import Event, Packet
from pipeline.reader import Numbers, Reader
from pipeline.wiring import Failed, RunSettings

_log = logging.getLogger("posestream.run")

ENDED_KEPT = 100  # ended sources that keep their own row of statistics


class ForgottenSources:
    """The sums of sources that ended long ago, so that a run of years does not fill the memory.

    The lock of `Sources` guards it.
    """

    def __init__(self) -> None:
        self.streams = PastStreams()
        # What the sources did and counted. Replaced, never changed, so that it can be read without the lock.
        self.work = WorkerMetrics()
        self.counters: Counter[str] = Counter()
        self.numbers: dict[str, Numbers] = {}  # by name, in case the source comes back

    def add(self, reader: Reader, streams: list[StreamStats]) -> None:
        """Add an ended source and its streams."""
        work = WorkerMetrics()
        work.add(self.work)
        work.add(reader.metrics)
        work.ledger.add(reader.book.snapshot())
        work.ledger.forget(reader.streams)
        self.work, self.counters = work, self.counters + reader.operator.counters
        self.streams += PastStreams.of(streams)
        self.numbers[reader.stream] = reader.next


class Sources:
    """The readers of a run, by the names of their sources.

    Closes `edges` once no source is left, unless `keep_open`. Calls `forget` with streams that ended so long
    ago that only their sums are kept, and `failed` with an error that must end the run.
    """

    def __init__(
        self,
        node: Node,
        settings: RunSettings,
        edges: list[Edge],
        finished: Finished,
        *,
        keep_open: bool,
        pace: Pace | None,
        forget: Callable[[Collection[str]], None],
        failed: Failed,
    ):
        self._node, self._settings, self._edges, self._finished = node, settings, edges, finished
        self._keep_open, self._pace = keep_open, pace
        self._forget, self._failed = forget, failed
        self._lock = threading.Lock()
        self._readers: dict[str, Reader] = {}
        self._reading = 0
        self._stopping = self._started = False
        self._forgotten = ForgottenSources()

    @property
    def stopping(self) -> bool:
        """Whether no more is read."""
        return self._stopping

    def prepare(self, stream: str, uri: str) -> None:
        """Note a source, already checked, that will be read from the start of the run.

        Raises:
            SourceError: it cannot be opened any more.
        """
        self._readers[stream] = self._reader(stream, uri)

    def start(self) -> None:
        """Start to read all prepared sources."""
        with self._lock:
            self._started = True
            readers = [] if self._stopping else list(self._readers.values())
            self._reading = len(readers)
        for reader in readers:
            reader.start(self._settings.info_for(len(readers)))
        self._close_if_idle()

    def add(self, stream: str, uri: str) -> None:
        """Start to read one more source.

        Raises:
            ConfigError: a source of this name is being read, or the run is stopping.
            SourceError: it cannot be read.
        """
        if not self._settings.live:
            check_sources(self._node, [uri])
        reader = self._reader(stream, uri)
        with self._lock:
            if self._stopping:
                raise ConfigError(f"cannot add {stream}: the run is stopping")
            known = self._readers.get(stream)
            if known and known.reading:
                raise ConfigError(f"a source named {stream!r} is already being read")
            if known:
                reader.go_on_from(known)
                del self._readers[stream]  # so that the new one becomes the last in the order
            elif numbers := self._forgotten.numbers.get(stream):
                reader.go_on_at(numbers)
            self._readers[stream] = reader
            self._reading += 1
            self._forget_oldest()
        reader.start(self._settings.info_for(self._reading))

    def remove(self, stream: str) -> None:
        """Stop reading a source: what was read of it is finished, then its stream ends.

        Raises:
            ConfigError: there is no source of this name.
        """
        with self._lock:
            if stream not in self._readers:
                raise ConfigError(f"no source {stream!r}; there are: {', '.join(self._readers) or 'none'}")
            reader = self._readers[stream]
        reader.stop()

    def stop(self) -> None:
        """Read no more; what was read is finished and written."""
        with self._lock:
            self._stopping = True
            readers = list(self._readers.values())
        for reader in readers:
            reader.stop()
        if self._started:
            self._close_if_idle()

    def being_read(self) -> dict[str, str]:
        """The sources that are being read: stream name to uri."""
        return {reader.stream: reader.uri for reader in self._known() if reader.reading}

    def acknowledge(self, newest: Mapping[str, Packet]) -> None:
        """Tell the operators that gave these streams: each packet, and all before it, has left the graph."""
        if not newest:
            return
        readers = self._known()
        for stream, packet in newest.items():
            for reader in readers:
                if stream in reader.packets:
                    reader.operator.finished(packet)

    def events(self) -> list[Event]:
        """What happened to the sources lately, the oldest first."""
        return sorted(
            (event for reader in self._known() for event in list(reader.events)), key=lambda e: e.at_ns
        )

    def stats(self, run_ns: int) -> tuple[StageStats, list[StreamStats], PastStreams]:
        """The source's stage, the streams that keep their own figures, and the sums of all others."""
        with self._lock:
            readers = list(self._readers.values())
            forgotten = self._forgotten.streams
            work, counters = self._forgotten.work, self._forgotten.counters
            streams = [
                self._stream_stats(reader, stream, run_ns) for reader in readers for stream in reader.streams
            ]
        stage = StageStats.of(
            self._node.name,
            run_ns,
            [work, *(reader.metrics for reader in readers)],
            [reader.book.snapshot() for reader in readers],
            [counters, *(reader.operator.counters for reader in readers)],
        )
        return replace(stage, workers=len(readers)), streams, forgotten

    def _known(self) -> list[Reader]:
        with self._lock:
            return list(self._readers.values())

    def _reader(self, stream: str, uri: str) -> Reader:
        operator = make_source(self._node)
        # A camera may be away right now, and nobody knows how many frames it will give.
        expected = None if self._settings.live else operator.frames_expected(uri)
        return Reader(
            stream,
            uri,
            operator,
            expected,
            [self._pace.join(stream), *self._edges] if self._pace else self._edges,
            failed=self._note_failure,
            ended=self._note_end,
            stage=self._node.name,
            tracer=self._settings.tracer,
        )

    def _note_failure(self, reader: Reader, error: Exception) -> None:
        if not isinstance(error, PosestreamError):
            _log.debug("reading %s", reader.stream, exc_info=error)
            error = SourceError(f"{reader.stream}: {type(error).__name__}: {error}")
        if self._node.on_error_in(live=self._settings.live) == "fail":
            self._failed(error)
        else:
            _log.error("%s", error)

    def _note_end(self) -> None:
        with self._lock:
            self._reading -= 1
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        with self._lock:
            idle = self._reading == 0 and (self._stopping or not self._keep_open)
        if idle:
            for edge in self._edges:
                edge.close()

    def _forget_oldest(self) -> None:
        """Keep only sums of the ended sources, except of those that were added last."""
        ended = [reader for reader in self._readers.values() if self._has_ended(reader)]
        for reader in ended[:-ENDED_KEPT]:
            del self._readers[reader.stream]
            streams = reader.streams
            self._forgotten.add(reader, [self._stream_stats(reader, stream, 0) for stream in streams])
            self._finished.forget(streams)
            self._forget(streams)

    def _has_ended(self, reader: Reader) -> bool:
        """Whether a source gives nothing any more, and everything that it gave has left the graph."""
        return reader.over and all(self._finished.has_ended(stream) for stream in reader.streams)

    def _stream_stats(self, reader: Reader, stream: str, run_ns: int) -> StreamStats:
        """A stream's own counts; only the run knows what was dropped on the way."""
        slowest = self._finished.slowest(stream)
        return StreamStats(
            name=stream,
            source=reader.stream,
            run_ns=run_ns,
            read=reader.packets[stream] + (reader.read_before if stream == reader.stream else 0),
            expected=reader.expected,
            finished=slowest.packets,
            instances=slowest.instances,
            dropped=0,
            ended=slowest.ended,
            lost=reader.lost,
            counters=reader.operator.counters.copy(),
            age=slowest.age,
        )


def make_source(node: Node) -> Source:
    """A new operator of the graph's source node."""
    operator = node.make()
    assert isinstance(operator, Source)  # Graph has checked it
    return operator


def check_sources(node: Node, uris: Iterable[str]) -> None:
    """Refuse sources that cannot be read, each file once.

    Raises:
        ConfigError, SourceError: the first of them.
    """
    source = make_source(node)
    for uri in dict.fromkeys(uris):
        source.check(uri)
