"""Snapshots of stages and edges: what they did, and every value that is derived from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pipeline.measurement.ledger import Ledger, by_reason
from pipeline.measurement.metrics import Percentile, WorkerMetrics, add_up, per_second


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
        work = _add_up_work(workers)
        for ledger in ledgers:
            work.ledger.add(ledger)
        return cls(name, len(workers), run_ns, work, add_up(counters))

    @classmethod
    def total(cls, parts: Sequence[StageStats]) -> StageStats:
        """Add up the same stage of several processes."""
        return cls(
            parts[0].name,
            sum(part.workers for part in parts),
            max(part.run_ns for part in parts),
            _add_up_work([part.work for part in parts]),
            add_up(part.counters for part in parts),
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
        return per_second(self.packets_in, self.run_ns)

    @property
    def packets_out_per_s(self) -> float:
        """Packets a second that the stage gave."""
        return per_second(self.packets_out, self.run_ns)

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


def _add_up_work(workers: Iterable[WorkerMetrics]) -> WorkerMetrics:
    total = WorkerMetrics()
    for worker in workers:
        total.add(worker)
    return total
