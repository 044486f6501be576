"""One snapshot of a run: its stages, edges and streams as counted, and every value that is derived from them.

Snapshots of one run in several processes add up (`total`); two snapshots of a run give the time between them
(`since`). Every view draws from here: the run's table, the control API, Prometheus, `top` and `profile`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from pipeline.measurement.faults import Fault, faults_of
from pipeline.measurement.ledger import Ledger, Losses, by_reason
from pipeline.measurement.metrics import Histogram, WorkerMetrics

T = TypeVar("T")


class Percentile:
    """An attribute of a snapshot: a percentile of one of its histograms, in ms."""

    def __init__(self, histogram: Callable[[Any], Histogram], percent: float):
        self._histogram, self._percent = histogram, percent

    def __get__(self, owner: object, kind: type | None = None) -> float:
        return self._histogram(owner).percentile_ms(self._percent)


class Shares(NamedTuple):
    """How the workers of a stage spent their time, 0..1; busy + blocked + idle = 1."""

    busy: float  # at work
    computing: float  # part of `busy`: their own threads were on a processor; engines may have more threads
    blocked: float  # waited for room behind the stage
    idle: float  # had nothing to do

    @property
    def waiting(self) -> float:
        """Part of `busy`: at work without computing, for a device, a disk, a lock, a processor."""
        return max(self.busy - self.computing, 0.0)


@dataclass(frozen=True)
class StageStats:
    """A stage, over all of its workers. Shares and rates are of `run_ns`."""

    name: str
    workers: int  # of the source stage: the sources
    run_ns: int  # the time that this snapshot covers
    work: WorkerMetrics  # what the workers did, added up
    counters: Counter[str]  # what the operator itself counted

    wait_p50_ms = Percentile(lambda stage: stage.work.wait, 50)  # in the queue
    wait_p95_ms = Percentile(lambda stage: stage.work.wait, 95)
    wait_p99_ms = Percentile(lambda stage: stage.work.wait, 99)
    latency_p50_ms = Percentile(lambda stage: stage.work.latency, 50)  # in the queue and at work
    latency_p95_ms = Percentile(lambda stage: stage.work.latency, 95)
    latency_p99_ms = Percentile(lambda stage: stage.work.latency, 99)

    @classmethod
    def of(
        cls,
        name: str,
        run_ns: int,
        workers: Sequence[WorkerMetrics],
        ledgers: Iterable[Ledger],
        counters: Iterable[Counter[str]],
    ) -> StageStats:
        """Take the snapshot of a stage while its workers go on."""
        work = _total_work(workers)
        for ledger in ledgers:
            work.ledger.add(ledger)
        return cls(name, len(workers), run_ns, work, _total(counters))

    @classmethod
    def total(cls, parts: Sequence[StageStats]) -> StageStats:
        """Add up the same stage of several processes."""
        return cls(
            parts[0].name,
            sum(part.workers for part in parts),
            max(part.run_ns for part in parts),
            _total_work([part.work for part in parts]),
            _total(part.counters for part in parts),
        )

    def since(self, earlier: StageStats) -> StageStats:
        """Return what was done after `earlier`."""
        return replace(
            self,
            run_ns=self.run_ns - earlier.run_ns,
            work=self.work.since(earlier.work),
            counters=self.counters - earlier.counters,
        )

    @property
    def seconds(self) -> float:
        """The time that this snapshot covers."""
        return self.run_ns / 1e9

    @property
    def packets_in(self) -> int:
        """Packets that the stage took."""
        return self.work.packets_in

    @property
    def packets_out(self) -> int:
        """Packets that the stage gave."""
        return self.work.packets_out

    @property
    def packets_in_per_s(self) -> float:
        """Packets a second that the stage took."""
        return _rate(self.packets_in, self.run_ns)

    @property
    def packets_out_per_s(self) -> float:
        """Packets a second that the stage gave."""
        return _rate(self.packets_out, self.run_ns)

    @property
    def busy(self) -> float:
        """Workers at work, on average: 0..workers."""
        return self.work.busy_ns / max(self.run_ns, 1)

    @property
    def cpu(self) -> float:
        """Cores that the workers' own threads kept busy, part of `busy`."""
        return self.work.cpu_ns / max(self.run_ns, 1)

    @property
    def blocked(self) -> float:
        """Workers that waited for room behind the stage, on average: 0..workers."""
        return self.work.blocked_ns / max(self.run_ns, 1)

    def shares(self, *, busy_at_least: float = 0.0, held_up: bool = False) -> Shares:
        """How the workers spent their time.

        A call or a wait is counted when it ends, so a long one can bring more time than the snapshot covers,
        and one that has not ended is missing. Where another observer saw it, `busy_at_least` (0..1) and
        `held_up` (all workers waited for room throughout) say so.
        """
        workers = max(self.workers, 1)
        busy = min(max(self.busy / workers, busy_at_least), 1.0)
        blocked = 1.0 - busy if held_up else min(self.blocked / workers, 1.0 - busy)
        return Shares(busy, min(self.cpu / workers, busy), blocked, 1.0 - busy - blocked)

    @property
    def batches(self) -> dict[int, int]:
        """Batch size: calls, the smallest size first."""
        return dict(sorted(self.work.batches.items()))

    @property
    def mean_batch(self) -> float:
        """Packets a call took on average; 0 without calls."""
        calls = self.work.batches.total()
        return sum(size * n for size, n in self.work.batches.items()) / calls if calls else 0.0

    @property
    def dropped(self) -> dict[str, int]:
        """Packets that the stage dropped or set aside, by reason."""
        return by_reason(self.work.ledger.dropped)

    @property
    def in_flight(self) -> int:
        """Packets that the stage has taken, and is working on or holds."""
        return self.work.ledger.in_flight.total()


@dataclass(frozen=True)
class EdgeStats:
    """An edge; at all times in_flight_before + received = delivered + dropped + in_flight."""

    producer: str
    consumer: str
    ledger: Ledger

    @classmethod
    def total(cls, parts: Sequence[EdgeStats]) -> EdgeStats:
        """Add up the same edge of several processes."""
        total = Ledger()
        for part in parts:
            total.add(part.ledger)
        return cls(parts[0].producer, parts[0].consumer, total)

    def since(self, earlier: EdgeStats) -> EdgeStats:
        """Return what passed after `earlier`."""
        return replace(self, ledger=self.ledger.since(earlier.ledger))

    @property
    def received(self) -> int:
        """Packets that the producer put on the edge."""
        return self.ledger.taken.total()

    @property
    def delivered(self) -> int:
        """Packets that the consumer took off the edge."""
        return self.ledger.given.total()

    @property
    def in_flight(self) -> int:
        """Packets that wait on the edge, or for their partners behind it."""
        return self.ledger.in_flight.total()

    @property
    def in_flight_before(self) -> int:
        """`in_flight` when the time that this snapshot covers began."""
        return self.ledger.in_flight_before.total()

    @property
    def name(self) -> str:
        """The edge as it is written in tables."""
        return f"{self.producer} → {self.consumer}"

    @property
    def dropped(self) -> dict[str, int]:
        """Packets lost on the edge, by reason."""
        return by_reason(self.ledger.dropped)

    @property
    def closed(self) -> bool:
        """Whether the sum comes out even."""
        return not self.ledger.balance()


@dataclass(frozen=True)
class StreamStats:
    """A stream, from its source to the last stage. It never changes process, so streams are not added up."""

    name: str
    source: str  # its name where it carries several streams; else the stream's
    run_ns: int  # the time that this snapshot covers
    read: int  # packets that its source gave
    expected: int | None  # packets that its source will give in all, where known
    finished: int  # packets that have left every last stage
    instances: int  # rows in the finished packets
    dropped: int  # packets lost anywhere on the way
    ended: bool
    lost: bool  # the source gives nothing for now
    counters: Counter[str]  # what the source itself counted
    age: Histogram  # from when a packet entered the graph to the last stage's end

    age_p50_ms = Percentile(lambda stream: stream.age, 50)
    age_p95_ms = Percentile(lambda stream: stream.age, 95)
    age_p99_ms = Percentile(lambda stream: stream.age, 99)

    def since(self, earlier: StreamStats) -> StreamStats:
        """Return what came and finished after `earlier`."""
        return replace(
            self,
            run_ns=self.run_ns - earlier.run_ns,
            read=self.read - earlier.read,
            finished=self.finished - earlier.finished,
            instances=self.instances - earlier.instances,
            dropped=self.dropped - earlier.dropped,
            counters=self.counters - earlier.counters,
            age=self.age.since(earlier.age),
        )

    @property
    def fps(self) -> float:
        """Finished packets a second."""
        return _rate(self.finished, self.run_ns)

    @property
    def instances_per_frame(self) -> float:
        """Rows in a finished packet, on average; 0 without packets."""
        return self.instances / self.finished if self.finished else 0.0


@dataclass(frozen=True)
class PastStreams:
    """The sums of all streams that ended too long ago to keep figures of their own."""

    streams: int = 0
    read: int = 0
    finished: int = 0
    instances: int = 0

    @classmethod
    def of(cls, streams: Sequence[StreamStats]) -> PastStreams:
        """Add up these streams."""
        return cls(
            len(streams),
            sum(stream.read for stream in streams),
            sum(stream.finished for stream in streams),
            sum(stream.instances for stream in streams),
        )

    def __add__(self, other: PastStreams) -> PastStreams:
        return PastStreams(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: PastStreams) -> PastStreams:
        return PastStreams(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class RunStats:
    """A run at one moment or at its end, or what it did between two moments (`since`)."""

    run_id: str
    graph: str
    run_ns: int = 0  # since reading began
    cpu_ns: int = 0  # processor time of the run's processes in that time
    stages: list[StageStats] = field(default_factory=list)  # in the order of the graph, the source first
    edges: list[EdgeStats] = field(default_factory=list)
    streams: list[StreamStats] = field(default_factory=list)
    past: PastStreams = field(default_factory=PastStreams)

    age_p50_ms = Percentile(lambda run: run.age, 50)
    age_p95_ms = Percentile(lambda run: run.age, 95)
    age_p99_ms = Percentile(lambda run: run.age, 99)

    @classmethod
    def total(cls, parts: Sequence[RunStats]) -> RunStats:
        """Add up one run's snapshots of several processes, which began to read together."""
        return cls(
            run_id=parts[0].run_id,
            graph=parts[0].graph,
            run_ns=max(part.run_ns for part in parts),
            cpu_ns=sum(part.cpu_ns for part in parts),
            stages=[StageStats.total(same) for same in zip(*(part.stages for part in parts), strict=True)],
            edges=[EdgeStats.total(same) for same in zip(*(part.edges for part in parts), strict=True)],
            streams=[stream for part in parts for stream in part.streams],
            past=sum((part.past for part in parts), PastStreams()),
        )

    def since(self, earlier: RunStats) -> RunStats:
        """Return what was done after `earlier`, a snapshot of the same run."""
        run_ns = self.run_ns - earlier.run_ns
        known = {stream.name: stream for stream in earlier.streams}
        # A stream that has read less than before was forgotten in between, and begun again.
        same = {s.name for s in self.streams if s.name in known and s.read >= known[s.name].read}
        gone = [stream for stream in earlier.streams if stream.name not in same]
        return replace(
            self,
            run_ns=run_ns,
            cpu_ns=self.cpu_ns - earlier.cpu_ns,
            stages=[now.since(then) for now, then in zip(self.stages, earlier.stages, strict=True)],
            edges=[now.since(then) for now, then in zip(self.edges, earlier.edges, strict=True)],
            streams=[
                s.since(known[s.name]) if s.name in same else replace(s, run_ns=run_ns) for s in self.streams
            ],
            past=self.past - earlier.past - PastStreams.of(gone),
        )

    @property
    def seconds(self) -> float:
        """The time that this snapshot covers."""
        return self.run_ns / 1e9

    @property
    def cores_busy(self) -> float:
        """Processor time of the run's processes over `seconds`."""
        return self.cpu_ns / max(self.run_ns, 1)

    @property
    def read(self) -> int:
        """Packets that the sources gave."""
        return sum(stream.read for stream in self.streams) + self.past.read

    @property
    def finished(self) -> int:
        """Packets of all streams that have left every last stage."""
        return sum(stream.finished for stream in self.streams) + self.past.finished

    @property
    def fps(self) -> float:
        """Finished packets a second, end to end, over all streams."""
        return _rate(self.finished, self.run_ns)

    @property
    def age(self) -> Histogram:
        """The ages of the finished packets of all `streams`."""
        ages = Histogram()
        for stream in self.streams:
            ages.merge(stream.age)
        return ages

    @property
    def losses(self) -> Losses:
        """What was lost anywhere."""
        return _total([place.dropped for place in self._ledgers.values()])

    @property
    def dropped(self) -> int:
        """Packets lost anywhere, for whatever reason."""
        return self.losses.total()

    def dropped_at(self, stage: str) -> dict[str, int]:
        """Packets lost in the queues of a stage and set aside by it, by reason."""
        places = {stage, *(edge.name for edge in self.edges if edge.consumer == stage)}
        return by_reason(_total(one.dropped for name, one in self._ledgers.items() if name in places))

    @property
    def faults(self) -> list[Fault]:
        """Packets that a stage has not accounted for, by stage and stream."""
        producers: dict[str, list[str]] = {}
        for edge in self.edges:
            producers.setdefault(edge.consumer, []).append(edge.producer)
        return faults_of(self._ledgers, producers)

    @property
    def _ledgers(self) -> dict[str, Ledger]:
        """The ledgers of all stages and edges, by name."""
        stages = {stage.name: stage.work.ledger for stage in self.stages}
        return stages | {edge.name: edge.ledger for edge in self.edges}


def _rate(packets: int, run_ns: int) -> float:
    return packets / run_ns * 1e9 if run_ns else 0.0


def _total_work(workers: Iterable[WorkerMetrics]) -> WorkerMetrics:
    total = WorkerMetrics()
    for worker in workers:
        total.add(worker)
    return total


def _total(counters: Iterable[Counter[T]]) -> Counter[T]:
    total: Counter[T] = Counter()
    for counter in counters:
        total.update(counter.copy())  # a copy is one step for other threads, which may still be counting
    return total
