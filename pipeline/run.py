"""A run: a graph at work on its sources, from the first frame to the last."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from pipeline.edges.pace import Pace
from pipeline.finished import Finished
from pipeline.graph import Graph
from pipeline.measurement.ledger import by_stream
from pipeline.measurement.run_stats import RunStats
from pipeline.measurement.stage_stats import EdgeStats
from pipeline.measurement.tracing import Tracer
from pipeline.operator import RunInfo
from pipeline.packet import Event, Item
from pipeline.running import Running
from pipeline.sources import Sources, check_sources
from pipeline.wiring import RunSettings, wire


class _Clocks(NamedTuple):
    """A moment: monotonic time, and the processor time that this process has used until then."""

    wall_ns: int
    cpu_ns: int

    @classmethod
    def now(cls) -> _Clocks:
        return cls(time.monotonic_ns(), time.process_time_ns())


class Run(Running):
    """Runs `graph` on `sources` (stream name to file, folder or URL), a thread for each source and worker.

    `live` sources never wait: the edge behind them drops its oldest packet instead, and an operator that
    raises sets the packet aside. No stage begins to work on a packet that entered the graph more than
    `max_age_s` ago. `keep_open` keeps the run going when no source is left, so that others can be added.
    `cores` is how many processors it may use, by default all. `info` is given to one share of a run in
    several processes, whose sources were checked where the run was made. `tracer` is called with what the
    stages do.
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
        """Make all stages, edges and readers.

        Raises:
            ConfigError, SourceError: a source cannot be read.
        """
        sources = sources or {}
        if not live and info is None:
            check_sources(graph.source, sources.values())
        super().__init__(graph, (info or RunInfo.new(graph.name))._replace(live=live, sources=tuple(sources)))
        self._tracer = tracer
        self._started: _Clocks | None = None  # when reading began
        self._ended: _Clocks | None = None
        self._settings = RunSettings(
            self.info,
            cores=cores or os.cpu_count() or 1,
            streams=None if keep_open else len(sources),
            max_age_ns=None if max_age_s is None else round(max_age_s * 1e9),
            tracer=tracer,
        )
        self._finished = Finished(node.name for node in graph.nodes if not graph.consumers(node))
        wiring = wire(graph, self._settings, finished=self._note_finished, failed=self._note_failure)
        self._stages, self._edges = wiring.stages, wiring.edges
        across = any(node.operator.across_streams for node in graph.nodes)
        self._sources = Sources(
            graph.source,
            self._settings,
            wiring.source_edges,
            self._finished,
            keep_open=keep_open,
            pace=Pace() if across and not live else None,
            forget=self._forget,
            failed=self._note_failure,
        )
        for stream, uri in sources.items():
            self._sources.prepare(stream, uri)

    def add_source(self, stream: str, uri: str) -> None:
        """Start to read one more source while the run is going.

        Raises:
            ConfigError: a source of this name is being read, or the run is stopping.
            SourceError: it cannot be read.
        """
        self._sources.add(stream, uri)

    def remove_source(self, stream: str) -> None:
        """Stop reading a source: what was read of it is finished, then its stream ends.

        Raises:
            ConfigError: there is no source of this name.
        """
        self._sources.remove(stream)

    def sources(self) -> dict[str, str]:
        """The sources that are being read: stream name to uri."""
        return self._sources.being_read()

    def start(self) -> None:
        """Open all operators, then start to read. `wait` and `finish` show a failure."""
        self.open()
        self.read()

    def open(self) -> None:
        """Open all operators; stage by stage if a tracer measures what each of them takes."""
        if self._tracer:
            self._tracer.begin(self.info)
        for stage in self._stages:
            stage.start(self._settings.info_for(len(stage.operators)))
            if self._tracer:
                stage.opened.wait()
                self._tracer.opened(stage.name)
        if not self._tracer:
            for stage in self._stages:
                stage.opened.wait()

    def read(self) -> None:
        """Start to read; all operators are open."""
        self._started = _Clocks.now()
        self._sources.start()

    def stop(self) -> None:
        """Read no more; what was read is finished and written."""
        self._sources.stop()

    @property
    def stopping(self) -> bool:
        """Whether it reads no more."""
        return self._sources.stopping

    def abort(self) -> None:
        """Stop at once: packets that wait in the queues are dropped and counted."""
        self.stop()
        for stage in self._stages:
            for inbox in stage.inboxes:
                inbox.abort()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the run's end; False if it has not ended after `timeout_s`."""
        ended = super().wait(timeout_s)
        if ended and not self._ended:
            self._ended = _Clocks.now()
            if self._tracer:
                self._tracer.end()
        return ended

    def stats(self) -> RunStats:
        """Take a snapshot of this moment, or of the end."""
        now = self._ended or _Clocks.now()
        started = self._started or now
        run_ns = now.wall_ns - started.wall_ns
        reading, streams, forgotten = self._sources.stats(run_ns)
        stats = RunStats(
            run_id=self.info.id,
            graph=self.graph.name,
            run_ns=run_ns,
            cpu_ns=now.cpu_ns - started.cpu_ns,
            stages=[reading, *(stage.stats(run_ns) for stage in self._stages)],
            edges=[EdgeStats(edge.producer, edge.consumer, edge.ledger()) for edge in self._edges],
            past=forgotten,
        )
        lost = by_stream(stats.losses)
        return replace(stats, streams=[replace(stream, dropped=lost[stream.name]) for stream in streams])

    def room(self, streams: int) -> list[int | None]:
        """How many packets of so many streams each edge holds when full, in the order of `stats`."""
        return [edge.room(streams) for edge in self._edges]

    def events(self) -> list[Event]:
        """What happened to the sources lately, the oldest first."""
        return self._sources.events()

    def _threads(self) -> Iterable[threading.Thread]:
        return (thread for stage in self._stages for thread in stage.threads)

    def _note_finished(self, stage: str, items: Sequence[Item]) -> None:
        if self._tracer:
            self._tracer.finished(stage, items)
        self._sources.acknowledge(self._finished.add(stage, items))

    def _forget(self, streams: Collection[str]) -> None:
        for stage in self._stages:
            stage.forget(streams)
        for edge in self._edges:
            edge.forget(streams)
