"""The figures of a run as they are counted. They add up, over workers and over processes; `stats` sums up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pipeline.measurement.metrics import (
    EdgeStats,
    Histogram,
    Losses,
    PastStreams,
    RunStats,
    StageStats,
    StreamStats,
    WorkerMetrics,
    by_reason,
    by_stream,
    losses_since,
)

T = TypeVar("T")


@dataclass(frozen=True)
class StageFigures:
    """A stage: what its workers did, added up, and what its operators counted."""

    name: str
    workers: int
    work: WorkerMetrics
    counters: Counter[str]

    @classmethod
    def of(
        cls, name: str, workers: Sequence[WorkerMetrics], counters: Iterable[Counter[str]]
    ) -> StageFigures:
        """The figures of a stage at this moment, while its workers go on."""
        return cls(name, len(workers), _added(workers), _total(counters))

    @classmethod
    def add(cls, parts: Sequence[StageFigures]) -> StageFigures:
        """The same stage in several processes."""
        return cls(
            parts[0].name,
            sum(part.workers for part in parts),
            _added([part.work for part in parts]),
            _total(part.counters for part in parts),
        )

    def since(self, before: StageFigures) -> StageFigures:
        """What was done after `before`."""
        return StageFigures(
            self.name, self.workers, self.work.since(before.work), self.counters - before.counters
        )

    def stats(self, run_ns: int) -> StageStats:
        """The summary of a stage in a run of `run_ns`."""
        work, calls = self.work, self.work.batches.total()
        packets = sum(size * n for size, n in work.batches.items())
        return StageStats(
            name=self.name,
            workers=self.workers,
            packets_in=work.packets_in,
            packets_out=work.packets_out,
            busy=work.busy_ns / max(run_ns, 1),
            cpu=work.cpu_ns / max(run_ns, 1),
            blocked=work.blocked_ns / max(run_ns, 1),
            mean_batch=packets / calls if calls else 0.0,
            batches=dict(sorted(work.batches.items())),
            wait_p50_ms=work.wait.percentile_ms(50),
            wait_p95_ms=work.wait.percentile_ms(95),
            wait_p99_ms=work.wait.percentile_ms(99),
            latency_p50_ms=work.latency.percentile_ms(50),
            latency_p95_ms=work.latency.percentile_ms(95),
            latency_p99_ms=work.latency.percentile_ms(99),
            dropped=dict(by_reason(work.dropped)),
            counters=dict(self.counters),
        )


@dataclass(frozen=True)
class EdgeFigures:
    """An edge; at all times received = delivered + dropped + in_flight."""

    producer: str
    consumer: str
    received: int
    delivered: int
    in_flight: int
    dropped: Losses

    @property
    def name(self) -> str:
        """As it is told."""
        return f"{self.producer} → {self.consumer}"

    @classmethod
    def add(cls, parts: Sequence[EdgeFigures]) -> EdgeFigures:
        """The same edge in several processes."""
        return cls(
            parts[0].producer,
            parts[0].consumer,
            sum(part.received for part in parts),
            sum(part.delivered for part in parts),
            sum(part.in_flight for part in parts),
            _total(part.dropped for part in parts),
        )

    def since(self, before: EdgeFigures) -> EdgeFigures:
        """What passed after `before`. What was in flight then adds to what is received or dropped since."""
        return EdgeFigures(
            self.producer,
            self.consumer,
            self.received - before.received,
            self.delivered - before.delivered,
            self.in_flight,
            losses_since(self.dropped, before.dropped),
        )

    def stats(self) -> EdgeStats:
        """The summary of an edge."""
        return EdgeStats(
            self.name, self.received, self.delivered, self.in_flight, dict(by_reason(self.dropped))
        )


@dataclass(frozen=True)
class StreamFigures:
    """A stream; it is never in two processes, so nothing of it needs adding."""

    name: str
    source: str
    read: int
    expected: int | None
    finished: int
    instances: int
    ended: bool
    lost: bool
    counters: Counter[str]
    age: Histogram  # from when it entered the graph to the last stage's end

    def since(self, before: StreamFigures) -> StreamFigures:
        """What came and finished after `before`."""
        return replace(
            self,
            read=self.read - before.read,
            finished=self.finished - before.finished,
            instances=self.instances - before.instances,
            counters=self.counters - before.counters,
            age=self.age.since(before.age),
        )

    def stats(self, dropped: int) -> StreamStats:
        """The summary of a stream that has lost so many packets."""
        return StreamStats(
            name=self.name,
            source=self.source,
            read=self.read,
            expected=self.expected,
            finished=self.finished,
            instances=self.instances,
            dropped=dropped,
            ended=self.ended,
            lost=self.lost,
            counters=dict(self.counters),
            age_p50_ms=self.age.percentile_ms(50),
            age_p95_ms=self.age.percentile_ms(95),
            age_p99_ms=self.age.percentile_ms(99),
        )


def together(streams: Sequence[StreamFigures]) -> PastStreams:
    """The sums of these streams."""
    return PastStreams(
        len(streams),
        sum(stream.read for stream in streams),
        sum(stream.finished for stream in streams),
        sum(stream.instances for stream in streams),
    )


@dataclass(frozen=True)
class RunFigures:
    """A run, or the share of it that is in one process."""

    run_id: str
    graph: str
    run_ns: int  # since reading began
    cpu_ns: int  # processor time of the process in that time
    stages: list[StageFigures]
    edges: list[EdgeFigures]
    streams: list[StreamFigures]
    past: PastStreams = field(default_factory=PastStreams)

    @classmethod
    def none(cls, run_id: str, graph: str) -> RunFigures:
        """Those of a run that has not begun."""
        return cls(run_id, graph, run_ns=0, cpu_ns=0, stages=[], edges=[], streams=[])

    @classmethod
    def add(cls, parts: Sequence[RunFigures]) -> RunFigures:
        """The figures of one run in several processes, which began to read together."""
        return cls(
            run_id=parts[0].run_id,
            graph=parts[0].graph,
            run_ns=max(part.run_ns for part in parts),
            cpu_ns=sum(part.cpu_ns for part in parts),
            stages=[StageFigures.add(same) for same in zip(*(part.stages for part in parts), strict=True)],
            edges=[EdgeFigures.add(same) for same in zip(*(part.edges for part in parts), strict=True)],
            streams=[stream for part in parts for stream in part.streams],
            past=sum((part.past for part in parts), PastStreams()),
        )

    def since(self, before: RunFigures) -> RunFigures:
        """What was done after `before`, in figures of the same run."""
        known = {stream.name: stream for stream in before.streams}
        same = {s.name for s in self.streams if s.name in known and s.read >= known[s.name].read}
        gone = [stream for stream in before.streams if stream.name not in same]  # ended, and forgotten
        return RunFigures(
            run_id=self.run_id,
            graph=self.graph,
            run_ns=self.run_ns - before.run_ns,
            cpu_ns=self.cpu_ns - before.cpu_ns,
            stages=[now.since(then) for now, then in zip(self.stages, before.stages, strict=True)],
            edges=[now.since(then) for now, then in zip(self.edges, before.edges, strict=True)],
            streams=[
                stream.since(known[stream.name]) if stream.name in same else stream for stream in self.streams
            ],
            past=self.past - before.past - together(gone),
        )

    def losses(self) -> Losses:
        """What was lost anywhere."""
        return _total([edge.dropped for edge in self.edges] + [stage.work.dropped for stage in self.stages])

    def stats(self) -> RunStats:
        """The summary."""
        lost = by_stream(self.losses())
        return RunStats(
            run_id=self.run_id,
            graph=self.graph,
            seconds=self.run_ns / 1e9,
            cores_busy=self.cpu_ns / max(self.run_ns, 1),
            stages=[stage.stats(self.run_ns) for stage in self.stages],
            edges=[edge.stats() for edge in self.edges],
            streams=[stream.stats(lost[stream.name]) for stream in self.streams],
            past=self.past,
        )


def _added(workers: Iterable[WorkerMetrics]) -> WorkerMetrics:
    total = WorkerMetrics()
    for worker in workers:
        total.add(worker)
    return total


def _total(counters: Iterable[Counter[T]]) -> Counter[T]:
    total: Counter[T] = Counter()
    for counter in counters:
        total.update(counter.copy())  # a copy is made in one go, while a worker may still be counting
    return total
