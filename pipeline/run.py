"""A run: a graph at work on its sources, from the first frame to the last."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pipeline.edges.edge import Edge, Inbox, Item, Lane, Policy
from pipeline.edges.pace import Pace
from pipeline.errors import ConfigError, PosestreamError, SourceError
from pipeline.graph import Graph
from pipeline.measurement.ended_sources import EndedSources
from pipeline.measurement.metrics import Histogram, by_stream
from pipeline.measurement.stats import EdgeStats, RunStats, StageStats, StreamStats
from pipeline.measurement.tracing import Tracer
from pipeline.node import Node
from pipeline.operator import RunInfo, Source
from pipeline.packet import End, Event, Packet
from pipeline.processes.split_run import SplitRun, processes_for
from pipeline.reader import Reader
from pipeline.running import Running
from pipeline.stage import Stage

_log = logging.getLogger("posestream.run")

CAPACITY = 4  # packets on an edge, at the least, unless the graph says otherwise
JOIN_MAX = 64  # live: frames of a stream that wait for their other parts; files wait for each other instead
OVER_KEPT = 100  # sources that are over whose streams are still told of one by one
CAPACITY_BEHIND_CAMERA = 2  # of each stream: a frame that comes early, or two at once, costs none


class _Clocks(NamedTuple):
    """A moment: monotonic time, and the processor time that this process has used until then."""

    wall_ns: int
    cpu_ns: int

    @classmethod
    def now(cls) -> _Clocks:
        return cls(time.monotonic_ns(), time.process_time_ns())


@dataclass
class _Finished:
    """What has left one last stage of one stream."""

    packets: int = 0
    instances: int = 0
    ended: bool = False
    age: Histogram = field(default_factory=Histogram)
    newest: Packet | None = None


class Run(Running):
    """Runs `graph` on `sources` (stream name to file, folder or URL), a thread a source and a worker.

    `live` sources are never waited for: the edge behind them drops its oldest packet instead, and an
    operator that raises sets the packet aside. No stage begins to work on a packet that entered the graph
    more than `max_age_s` ago. `keep_open` keeps the run going when no source is left, so that others can be
    added. `cores` is how many processors it may use, all unless told; `info` says which
    run it is, where it is only a share of one. `tracer` is told what the stages do.
    """

    def __init__(
        self,
        graph: Graph,
        sources: Mapping[str, str] | None = None,
        *,
        live: bool = False,
        max_age_s: float | None = None,
        keep_open: bool = False,
        cores: int | None = None,
        info: RunInfo | None = None,
        tracer: Tracer | None = None,
    ):
        super().__init__(
            graph, (info or RunInfo.new(graph.name))._replace(live=live, sources=tuple(sources or ()))
        )
        self._live = live
        self._max_age_ns = None if max_age_s is None else round(max_age_s * 1e9)
        self._keep_open = keep_open
        self._tracer = tracer
        self._cores = cores or os.cpu_count() or 1
        self._started: _Clocks | None = None  # when reading began
        self._ended: _Clocks | None = None
        self._stopping = False
        self._source_node = graph.source
        self._readers: dict[str, Reader] = {}
        self._reading = 0
        across = any(node.operator.across_streams for node in graph.nodes)
        self._pace = Pace() if across and not live else None
        self._source_edges: list[Edge] = []
        self._edges: list[Edge] = []
        self._stages: list[Stage] = []
        self._finished: dict[str, dict[str, _Finished]] = {}  # last stage: stream: what has left
        self._past = EndedSources()
        self._wire(streams=None if keep_open else len(sources or {}))
        for stream, uri in (sources or {}).items():
            self._readers[stream] = self._reader(stream, uri)

    def _wire(self, streams: int | None) -> None:
        """Make stages and edges, from the last node to the first, for a number of streams (None: any)."""
        inboxes: dict[str, list[Inbox]] = {}
        for node in reversed(self.graph.nodes):
            edges = [self._edge(node, consumer, inboxes) for consumer in self.graph.consumers(node)]
            self._edges += edges
            if node is self._source_node:
                self._source_edges = edges
                continue
            inputs = [self.graph.node(name) for name in node.after]
            workers = _workers(node, streams, self._cores)
            split = node.per_stream and workers > 1
            inboxes[node.name] = [
                Inbox(
                    [
                        Lane(self._capacity(producer, node), self._policy(producer, node), self._max_age_ns)
                        for producer in inputs
                    ],
                    join_max=JOIN_MAX if self._live else None,
                )
                for _ in range(workers if split else 1)
            ]
            if not edges:
                self._finished[node.name] = {}
            self._stages.append(
                Stage(
                    node.name,
                    [node.make() for _ in range(workers)],
                    inboxes[node.name],
                    edges,
                    batching=node.batching,
                    on_error=node.on_error or ("skip" if self._live else "fail"),
                    finished=lambda items, name=node.name: self._note_finished(name, items),  # type: ignore[misc]
                    failed=self._note_failure,
                    tracer=self._tracer,
                )
            )
        self._edges.reverse()
        self._stages.reverse()

    def _capacity(self, producer: Node, consumer: Node) -> int:
        """As much as keeps its consumer at work: a batch. Live, what waits for longer only grows old."""
        if consumer.capacity is not None:
            return consumer.capacity
        if not self._live:
            return max(CAPACITY, consumer.batching.max)
        return CAPACITY_BEHIND_CAMERA if producer is self._source_node else consumer.batching.max

    def _policy(self, producer: Node, consumer: Node) -> Policy:
        behind_camera = self._live and producer is self._source_node
        return consumer.on_full or ("drop_oldest" if behind_camera else "block")

    @staticmethod
    def _edge(producer: Node, consumer: Node, inboxes: Mapping[str, Sequence[Inbox]]) -> Edge:
        index = consumer.after.index(producer.name)
        return Edge(producer.name, consumer.name, [(box, box.lanes[index]) for box in inboxes[consumer.name]])

    # Sources

    def _reader(self, stream: str, uri: str) -> Reader:
        operator = self._source_node.make()
        assert isinstance(operator, Source)  # Graph has checked it
        # A camera may be away just now, and nobody knows how much it will give.
        expected = None if self._live else operator.frames_expected(uri)
        return Reader(
            stream,
            uri,
            operator,
            expected,
            [self._pace.join(stream), *self._source_edges] if self._pace else self._source_edges,
            failed=self._note_source_failure,
            ended=self._note_source_end,
            stage=self._source_node.name,
            tracer=self._tracer,
        )

    def add_source(self, stream: str, uri: str) -> None:
        """Attach a source while the run is going.

        Raises:
            ConfigError: a source of this name is being read, or the run is stopping.
            SourceError: it cannot be read.
        """
        reader = self._reader(stream, uri)
        with self._lock:
            if self._stopping:
                raise ConfigError(f"cannot add {stream}: the run is stopping")
            known = self._readers.get(stream)
            if known and known.reading:
                raise ConfigError(f"a source named {stream!r} is already being read")
            if known:
                reader.go_on_from(known)
                del self._readers[stream]  # so that the newest is the last
            elif numbers := self._past.numbers.get(stream):
                reader.go_on_at(numbers)
            self._readers[stream] = reader
            self._reading += 1
            self._forget()
        reader.start(self._info_for(self._reading))

    def _forget(self) -> None:
        """Keep only sums of what is over for longest, else a run of years would fill the memory."""
        over = [reader for reader in self._readers.values() if self._is_over(reader)]
        for reader in over[:-OVER_KEPT]:
            del self._readers[reader.stream]
            streams = reader.streams
            self._past.add(reader, [self._stream_stats(reader, stream) for stream in streams])
            for ends in self._finished.values():
                for stream in streams:
                    ends.pop(stream, None)
            for stage in self._stages:
                stage.forget(streams)

    def _is_over(self, reader: Reader) -> bool:
        """Whether a source will give nothing any more, and all that it gave has left the graph."""
        return reader.over and all(self._has_ended(stream) for stream in reader.streams)

    def _has_ended(self, stream: str) -> bool:
        """Whether a stream is over at every last stage."""
        return all(stream in ends and ends[stream].ended for ends in self._finished.values())

    def remove_source(self, stream: str) -> None:
        """Detach a source: what was read of it is finished, then its stream ends.

        Raises:
            ConfigError: there is no source of this name.
        """
        with self._lock:
            if stream not in self._readers:
                raise ConfigError(f"no source {stream!r}; there are: {', '.join(self._readers) or 'none'}")
            reader = self._readers[stream]
        reader.stop()

    def sources(self) -> dict[str, str]:
        """The sources that are being read: stream name to uri."""
        with self._lock:
            return {reader.stream: reader.uri for reader in self._readers.values() if reader.reading}

    def _note_source_failure(self, reader: Reader, error: Exception) -> None:
        if not isinstance(error, PosestreamError):
            _log.debug("reading %s", reader.stream, exc_info=error)
            error = SourceError(f"{reader.stream}: {type(error).__name__}: {error}")
        if (self._source_node.on_error or ("skip" if self._live else "fail")) == "fail":
            self._note_failure(error)
        else:
            _log.error("%s", error)

    def _info_for(self, sharing: int) -> RunInfo:
        """What operators may know of the run when so many of them share the processors."""
        return self.info._replace(cores=max(1, self._cores // max(1, sharing)))

    def _note_source_end(self) -> None:
        with self._lock:
            self._reading -= 1
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        with self._lock:
            idle = self._reading == 0 and (self._stopping or not self._keep_open)
        if idle:
            for edge in self._source_edges:
                edge.close()

    # The run itself

    def start(self) -> None:
        """Open all operators, then start to read. A failure shows in `wait` and `finish`."""
        self.open()
        self.read()

    def open(self) -> None:
        """Open all operators; one stage behind the other where a tracer wants to know what each takes."""
        if self._tracer:
            self._tracer.begin(self.info)
        for stage in self._stages:
            stage.start(self._info_for(len(stage.operators)))
            if self._tracer:
                stage.opened.wait()
                self._tracer.opened(stage.name)
        if not self._tracer:
            for stage in self._stages:
                stage.opened.wait()

    def read(self) -> None:
        """Start to read; all operators are open."""
        self._started = _Clocks.now()
        with self._lock:
            readers = [] if self._stopping else list(self._readers.values())
            self._reading = len(readers)
        for reader in readers:
            reader.start(self._info_for(len(readers)))
        self._close_if_idle()

    def stop(self) -> None:
        """Read no more; what was read is finished and written."""
        with self._lock:
            self._stopping = True
            readers = list(self._readers.values())
        for reader in readers:
            reader.stop()
        if self._started:
            self._close_if_idle()

    @property
    def stopping(self) -> bool:
        """Whether it reads no more."""
        return self._stopping

    def abort(self) -> None:
        """Stop at once: what waits in the queues is thrown away, and counted."""
        self.stop()
        for stage in self._stages:
            for inbox in stage.inboxes:
                inbox.abort()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the run's end; False if it goes on behind the time-out."""
        ended = super().wait(timeout_s)
        if ended and not self._ended:
            self._ended = _Clocks.now()
            if self._tracer:
                self._tracer.end()
        return ended

    def _threads(self) -> Iterable[threading.Thread]:
        return (thread for stage in self._stages for thread in stage.threads)

    def _note_finished(self, stage: str, items: Sequence[Item]) -> None:
        now = time.time_ns()
        if self._tracer:
            self._tracer.finished(stage, items)
        oldest: dict[str, Packet] = {}  # of each stream, what has left all last stages
        with self._lock:
            streams = self._finished[stage]
            for item in items:
                if isinstance(item, Event):
                    continue
                if item.stream not in streams:
                    streams[item.stream] = _Finished()
                done = streams[item.stream]
                done.ended = isinstance(item, End)
                if isinstance(item, End):
                    self._let_go(item.stream)
                    continue
                done.packets += 1
                done.instances += len(item.instances) if item.instances is not None else 0
                done.age.record(now - item.entered_ns)
                if len(self._finished) == 1:  # so that no picture has to be kept
                    oldest[item.stream] = item
                    continue
                done.newest = item
                if (packet := self._left_all(item.stream)) is not None:
                    oldest[item.stream] = packet
            readers = list(self._readers.values()) if oldest else []
        for stream, packet in oldest.items():
            for reader in readers:
                if stream in reader.packets:
                    reader.operator.finished(packet)

    def _let_go(self, stream: str) -> None:
        """Keep no packet of a stream that is over at every last stage."""
        if self._has_ended(stream):
            for ends in self._finished.values():
                ends[stream].newest = None

    def _left_all(self, stream: str) -> Packet | None:
        """The newest packet of a stream that has left every last stage."""
        newest = [
            streams[stream].newest if stream in streams else None for streams in self._finished.values()
        ]
        known = [packet for packet in newest if packet is not None]
        return min(known, key=lambda p: (p.entered_ns, p.seq)) if len(known) == len(newest) else None

    # Figures

    def stats(self) -> RunStats:
        """Take a snapshot of this moment, or of the end."""
        now = self._ended or _Clocks.now()
        started = self._started or now
        run_ns = now.wall_ns - started.wall_ns
        with self._lock:
            readers = list(self._readers.values())
            past, work, counters = self._past.streams, self._past.work, self._past.counters
            streams = [self._stream_stats(reader, stream) for reader in readers for stream in reader.streams]
        decoding = StageStats.of(
            self._source_node.name,
            run_ns,
            [work, *(reader.metrics for reader in readers)],
            [counters, *(reader.operator.counters for reader in readers)],
        )
        decoding = replace(decoding, workers=len(readers))
        stats = RunStats(
            run_id=self.info.id,
            graph=self.graph.name,
            run_ns=run_ns,
            cpu_ns=now.cpu_ns - started.cpu_ns,
            stages=[decoding, *(stage.stats(run_ns) for stage in self._stages)],
            edges=[EdgeStats(edge.producer, edge.consumer, *edge.counts()) for edge in self._edges],
            past=past,
        )
        lost = by_stream(stats.losses)
        return replace(
            stats, streams=[replace(one, run_ns=run_ns, dropped=lost[one.name]) for one in streams]
        )

    def room(self, streams: int) -> list[int | None]:
        """How many packets of so many streams each edge holds when full, in the order of `stats`."""
        return [edge.room(streams) for edge in self._edges]

    def _stream_stats(self, reader: Reader, stream: str) -> StreamStats:
        """A stream's own counts; its time and its losses are known to the whole run."""
        ends = [streams.get(stream, _Finished()) for streams in self._finished.values()]
        slowest = min(ends, key=lambda done: done.packets)
        return StreamStats(
            name=stream,
            source=reader.stream,
            run_ns=0,
            read=reader.packets[stream] + (reader.read_before if stream == reader.stream else 0),
            expected=reader.expected,
            finished=slowest.packets,
            instances=slowest.instances,
            dropped=0,
            ended=all(done.ended for done in ends),
            lost=reader.lost,
            counters=reader.operator.counters.copy(),
            age=slowest.age.copy(),
        )

    def events(self) -> list[Event]:
        """What happened to the sources lately, the oldest first."""
        with self._lock:
            readers = list(self._readers.values())
        return sorted((event for reader in readers for event in list(reader.events)), key=lambda e: e.at_ns)


def _workers(node: Node, streams: int | None, cores: int) -> int:
    """The workers of a node; `auto` is a worker a processor, but none that no stream would ever reach."""
    if node.workers != "auto":
        return node.workers
    if node.operator.across_streams:
        return 1
    return max(1, min(cores, streams)) if node.per_stream and streams is not None else cores


def make_run(
    graph: Graph,
    sources: Mapping[str, str],
    *,
    live: bool = False,
    processes: int | None = 1,
    tracer: Tracer | None = None,
) -> Running:
    """A run in so many processes, at most one a source; None takes as many as the graph says.

    Raises:
        ConfigError: several are wanted, and the graph must stay in one.
        SourceError: a source cannot be read.
    """
    cores = os.cpu_count() or 1
    if processes is None and graph.processes != "auto":
        processes = graph.processes
    processes = processes_for(graph, len(sources), processes, cores)
    if processes > 1:
        return SplitRun(graph, sources, processes, live=live, cores=cores, tracer=tracer)
    return Run(graph, sources, live=live, cores=cores, tracer=tracer)


def run_graph(
    graph: Graph, sources: Mapping[str, str], *, live: bool = False, processes: int | None = 1
) -> RunStats:
    """Run a graph on sources until they end; the summary. `processes` as for `make_run`.

    Raises:
        PosestreamError: a source cannot be read, or a stage failed.
    """
    run = make_run(graph, sources, live=live, processes=processes)
    run.start()
    try:
        return run.finish()
    except KeyboardInterrupt:
        run.stop()
        return run.finish()
