"""Counters and latency histograms that are cheap enough to be always on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass, field
from itertools import accumulate

Losses = Counter[tuple[str, str]]  # (stream, reason): packets; "" for all streams of the past

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
        self._counts[_bucket(ns)] += 1
        self.count += 1
        self.total_ns += ns

    def merge(self, other: Histogram) -> None:
        """Add all durations of another histogram."""
        if other.count:
            self._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]
            self.count += other.count
            self.total_ns += other.total_ns

    def copy(self) -> Histogram:
        """The same durations, in a histogram of their own."""
        copied = Histogram()
        copied._counts, copied.count, copied.total_ns = self._counts.copy(), self.count, self.total_ns
        return copied

    def since(self, before: Histogram) -> Histogram:
        """What was added after `before`, an earlier copy."""
        added = Histogram()
        added._counts = [max(a - b, 0) for a, b in zip(self._counts, before._counts, strict=True)]
        added.count = sum(added._counts)
        added.total_ns = max(self.total_ns - before.total_ns, 0)
        return added

    def below(self, bounds_ns: Sequence[int]) -> list[int]:
        """How many durations are shorter than each bound; exact for a bound of 2^k or 1.5 · 2^k ns, k > 3."""
        upto = [0, *accumulate(self._counts)]
        return [upto[_bucket(bound)] for bound in bounds_ns]

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


def _bucket(ns: int) -> int:
    shift = max(ns.bit_length() - _SUB_BITS - 1, 0)
    return (shift << _SUB_BITS) + (ns >> shift)


def by_reason(losses: Losses) -> Counter[str]:
    """The losses of all streams together."""
    reasons: Counter[str] = Counter()
    for (_, reason), packets in losses.items():
        reasons[reason] += packets
    return reasons


def by_stream(losses: Losses) -> Counter[str]:
    """The losses for whatever reason."""
    streams: Counter[str] = Counter()
    for (stream, _), packets in losses.items():
        streams[stream] += packets
    return streams


def forget_losses(losses: Losses, streams: Collection[str]) -> None:
    """Count the losses of these streams among those of the past."""
    for stream, reason in [key for key in losses.copy() if key[0] in streams]:
        losses["", reason] += losses.pop((stream, reason))


def losses_since(now: Losses, before: Losses) -> Losses:
    """What was lost after `before`; below 0 for a stream whose losses count among those of the past since."""
    lost = now.copy()
    lost.subtract(before)
    return Counter({key: packets for key, packets in lost.items() if packets})


class WorkerMetrics:
    """What one worker of a stage did; only its thread writes here."""

    __slots__ = (
        "batches", "blocked_ns", "busy_ns", "cpu_ns", "dropped", "latency", "packets_in", "packets_out",
        "wait",
    )  # fmt: skip

    def __init__(self) -> None:
        self.packets_in = 0
        self.packets_out = 0
        self.busy_ns = 0  # at work, whether it computes or waits for something
        self.cpu_ns = 0  # processor time of its own thread in that time; engines may have more threads
        self.blocked_ns = 0  # until its results were on the edges behind it
        self.batches: Counter[int] = Counter()
        self.dropped: Losses = Counter()
        self.wait = Histogram()  # in the queue
        self.latency = Histogram()  # in the queue and at work

    def add(self, other: WorkerMetrics) -> None:
        """Add what another worker did; its thread may go on writing."""
        self.packets_in += other.packets_in
        self.packets_out += other.packets_out
        self.busy_ns += other.busy_ns
        self.cpu_ns += other.cpu_ns
        self.blocked_ns += other.blocked_ns
        self.batches.update(other.batches.copy())  # copied in one go, so that it does not grow meanwhile
        self.dropped.update(other.dropped.copy())
        self.wait.merge(other.wait)
        self.latency.merge(other.latency)

    def since(self, before: WorkerMetrics) -> WorkerMetrics:
        """What was done after `before`, an earlier copy."""
        done = WorkerMetrics()
        for name in ("packets_in", "packets_out", "busy_ns", "cpu_ns", "blocked_ns"):
            setattr(done, name, getattr(self, name) - getattr(before, name))
        done.batches = self.batches - before.batches
        done.dropped = losses_since(self.dropped, before.dropped)
        done.wait = self.wait.since(before.wait)
        done.latency = self.latency.since(before.latency)
        return done


@dataclass(frozen=True)
class StageStats:
    """A stage, over all of its workers."""

    name: str
    workers: int
    packets_in: int
    packets_out: int
    busy: float  # share of the run's time, 0..workers
    cpu: float  # of it, what its own threads computed
    blocked: float  # share of the run's time in which it waited for room behind it, 0..workers
    mean_batch: float
    batches: dict[int, int]  # batch size: how often
    wait_p50_ms: float
    wait_p95_ms: float
    wait_p99_ms: float
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
    source: str  # its name where it carries several streams; else the stream's
    read: int  # packets that its source gave
    expected: int | None  # packets that its source will give in all, where known
    finished: int  # packets that have left every last stage
    instances: int  # rows in the finished packets
    dropped: int  # packets lost anywhere on the way
    ended: bool
    lost: bool  # the source gives nothing for now
    counters: dict[str, int]  # what the source itself counted
    age_p50_ms: float  # from when a packet entered the graph to the last stage's end
    age_p95_ms: float
    age_p99_ms: float


@dataclass(frozen=True)
class PastStreams:
    """All streams together that ended too long ago to be told of one by one."""

    streams: int = 0
    read: int = 0
    finished: int = 0
    instances: int = 0

    def __add__(self, other: PastStreams) -> PastStreams:
        return PastStreams(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: PastStreams) -> PastStreams:
        return PastStreams(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class RunStats:
    """A whole run, at one moment or at its end."""

    run_id: str
    graph: str
    seconds: float
    cores_busy: float = 0.0  # processor time of the run's processes, from the first frame on, over `seconds`
    stages: list[StageStats] = field(default_factory=list)
    edges: list[EdgeStats] = field(default_factory=list)
    streams: list[StreamStats] = field(default_factory=list)
    past: PastStreams = field(default_factory=PastStreams)

    @property
    def finished(self) -> int:
        """Packets of all streams that have left every last stage."""
        return sum(stream.finished for stream in self.streams) + self.past.finished

    @property
    def fps(self) -> float:
        """Finished packets a second, end to end, over all streams."""
        return self.finished / self.seconds if self.seconds else 0.0

    @property
    def dropped(self) -> int:
        """Packets lost anywhere, for whatever reason."""
        edges = sum(sum(edge.dropped.values()) for edge in self.edges)
        return edges + sum(sum(stage.dropped.values()) for stage in self.stages)
