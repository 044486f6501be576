"""Counters and latency histograms that are cheap enough to be always on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

Losses = Counter[tuple[str, str]]  # (stream, reason): packets

_SUB_BITS = 3  # eight buckets an octave: percentiles are right to within 6 %
_BUCKETS = 64 << _SUB_BITS


class Histogram:
    """Durations in ns on a logarithmic scale, in fixed memory. One thread writes, any may read."""

    __slots__ = ("_counts", "count", "total_ns")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.total_ns = 0

    def record(self, ns: int) -> None:
        """Add one duration."""
        ns = max(ns, 0)
        shift = max(ns.bit_length() - _SUB_BITS - 1, 0)
        self._counts[(shift << _SUB_BITS) + (ns >> shift)] += 1
        self.count += 1
        self.total_ns += ns

    def merge(self, other: Histogram) -> None:
        """Add all durations of another histogram."""
        self._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]
        self.count += other.count
        self.total_ns += other.total_ns

    def percentile_ms(self, percent: float) -> float:
        """The duration in ms below which `percent` of all lie (middle of its bucket); 0 without any."""
        rank = self.count * percent / 100
        seen = 0
        for bucket, n in enumerate(self._counts):
            seen += n
            if n and seen >= rank:
                shift = max((bucket >> _SUB_BITS) - 1, 0)
                low = (bucket - (shift << _SUB_BITS)) << shift
                return (low + (1 << shift) / 2) / 1e6
        return 0.0

    @property
    def mean_ms(self) -> float:
        """The mean duration in ms."""
        return self.total_ns / self.count / 1e6 if self.count else 0.0


class WorkerMetrics:
    """What one worker of a stage did; only its thread writes here."""

    __slots__ = ("batches", "busy_ns", "dropped", "latency", "packets_in", "packets_out", "wait")

    def __init__(self) -> None:
        self.packets_in = 0
        self.packets_out = 0
        self.busy_ns = 0
        self.batches: Counter[int] = Counter()
        self.dropped: Losses = Counter()
        self.wait = Histogram()  # in the queue
        self.latency = Histogram()  # in the queue and at work


@dataclass(frozen=True)
class StageStats:
    """A stage, over all of its workers."""

    name: str
    workers: int
    packets_in: int
    packets_out: int
    busy: float  # share of the run's time, 0..workers
    mean_batch: float
    batches: dict[int, int]  # batch size: how often
    wait_p50_ms: float
    wait_p95_ms: float
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    dropped: dict[str, int]  # reason: packets
    counters: dict[str, int]  # what the operator itself counted


@dataclass(frozen=True)
class EdgeStats:
    """An edge; at all times received = delivered + sum(dropped) + in_flight."""

    name: str
    received: int
    delivered: int
    in_flight: int
    dropped: dict[str, int]


@dataclass(frozen=True)
class StreamStats:
    """A stream, from its source to the last stage."""

    name: str
    read: int  # packets that its source gave
    expected: int | None  # packets that its source will give in all, where known
    finished: int  # packets that have left every last stage
    instances: int  # rows in the finished packets
    dropped: int  # packets lost anywhere on the way
    ended: bool
    age_p50_ms: float  # from capture to the last stage's end
    age_p95_ms: float


@dataclass(frozen=True)
class RunStats:
    """A whole run, at one moment or at its end."""

    run_id: str
    graph: str
    seconds: float
    stages: list[StageStats] = field(default_factory=list)
    edges: list[EdgeStats] = field(default_factory=list)
    streams: list[StreamStats] = field(default_factory=list)

    @property
    def finished(self) -> int:
        """Packets of all streams that have left every last stage."""
        return sum(stream.finished for stream in self.streams)

    @property
    def fps(self) -> float:
        """Finished packets a second, end to end, over all streams."""
        return self.finished / self.seconds if self.seconds else 0.0

    @property
    def dropped(self) -> int:
        """Packets lost anywhere, for whatever reason."""
        edges = sum(sum(edge.dropped.values()) for edge in self.edges)
        return edges + sum(sum(stage.dropped.values()) for stage in self.stages)


def by_reason(losses: Losses) -> dict[str, int]:
    """Losses of all streams, by reason."""
    reasons: Counter[str] = Counter()
    for (_, reason), packets in losses.items():
        reasons[reason] += packets
    return dict(reasons)


def of_stream(losses: Losses, stream: str) -> int:
    """Losses of one stream, for all reasons."""
    return sum(packets for (lost, _), packets in losses.items() if lost == stream)


def summarise(
    name: str, workers: list[WorkerMetrics], run_ns: int, counters: Counter[str] | dict[str, int]
) -> StageStats:
    """Add up what the workers of a stage did in a run of `run_ns`."""
    wait, latency = Histogram(), Histogram()
    batches: Counter[int] = Counter()
    dropped: Losses = Counter()
    for worker in workers:
        wait.merge(worker.wait)
        latency.merge(worker.latency)
        batches.update(worker.batches)
        dropped.update(worker.dropped)
    calls = sum(batches.values())
    return StageStats(
        name=name,
        workers=len(workers),
        packets_in=sum(worker.packets_in for worker in workers),
        packets_out=sum(worker.packets_out for worker in workers),
        busy=sum(worker.busy_ns for worker in workers) / max(run_ns, 1),
        mean_batch=sum(size * n for size, n in batches.items()) / calls if calls else 0.0,
        batches=dict(sorted(batches.items())),
        wait_p50_ms=wait.percentile_ms(50),
        wait_p95_ms=wait.percentile_ms(95),
        latency_p50_ms=latency.percentile_ms(50),
        latency_p95_ms=latency.percentile_ms(95),
        latency_p99_ms=latency.percentile_ms(99),
        dropped=by_reason(dropped),
        counters=dict(counters),
    )
