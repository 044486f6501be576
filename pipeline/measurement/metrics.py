"""What the threads of a run count as they work: cheap enough to be always on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate
from typing import Any, TypeVar

from pipeline.measurement.ledger import Ledger

T = TypeVar("T")

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
        if ns < 0:
            ns = 0
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
        """Return an independent copy."""
        copied = Histogram()
        copied._counts, copied.count, copied.total_ns = self._counts.copy(), self.count, self.total_ns
        return copied

    def since(self, earlier: Histogram) -> Histogram:
        """Return the durations that were added after `earlier`, an earlier copy."""
        added = Histogram()
        added._counts = [max(a - b, 0) for a, b in zip(self._counts, earlier._counts, strict=True)]
        added.count = sum(added._counts)
        added.total_ns = max(self.total_ns - earlier.total_ns, 0)
        return added

    def below(self, bounds_ns: Sequence[int]) -> list[int]:
        """Count the durations shorter than each bound; exact for bounds of 2^k or 1.5 · 2^k ns, k > 3."""
        cumulative = [0, *accumulate(self._counts)]
        return [cumulative[_bucket(bound)] for bound in bounds_ns]

    def percentile_ms(self, percent: float) -> float:
        """Return the percentile in ms, as the middle of its bucket; 0 if the histogram is empty."""
        rank = self.count * percent / 100
        seen = 0
        for bucket, n in enumerate(self._counts):
            seen += n
            if n and seen >= rank:
                shift = max((bucket >> _SUB_BITS) - 1, 0)
                low = (bucket - (shift << _SUB_BITS)) << shift
                return (low + (1 << shift) / 2) / 1e6
        return 0.0


def _bucket(ns: int) -> int:
    shift = ns.bit_length() - _SUB_BITS - 1
    return (shift << _SUB_BITS) + (ns >> shift) if shift > 0 else ns


def _counted(meaning: str) -> Any:
    """Declare a plain counter. Nanoseconds end in `_ns`. Prometheus exports it with this help text."""
    return field(default=0, metadata={"meaning": meaning})


@dataclass(slots=True, eq=False)
class WorkerMetrics:
    """What one worker of a stage did; only its thread writes here, except for the ledger.

    While a stage runs, its books keep the ledger; a snapshot has their sum here.
    """

    busy_ns: int = _counted("Time at work, computing or waiting, over all workers.")
    cpu_ns: int = _counted("Processor time of the workers' own threads; engines may have more threads.")
    blocked_ns: int = _counted("Time until the results were on the next edges, over all workers.")
    batches: Counter[int] = field(default_factory=Counter)  # batch size: calls
    ledger: Ledger = field(default_factory=Ledger)
    wait: Histogram = field(default_factory=Histogram)  # in the queue
    latency: Histogram = field(default_factory=Histogram)  # in the queue and at work

    def add(self, other: WorkerMetrics) -> None:
        """Add what another worker did; its thread may go on writing."""
        for name in TIMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        # `Counter.copy` is one step for other threads; iterating would fail when the worker adds a key.
        self.batches.update(other.batches.copy())
        self.ledger.add(other.ledger)
        self.wait.merge(other.wait)
        self.latency.merge(other.latency)

    def since(self, earlier: WorkerMetrics) -> WorkerMetrics:
        """Return what was done after `earlier`, an earlier copy."""
        return WorkerMetrics(
            **{name: getattr(self, name) - getattr(earlier, name) for name in TIMES},
            batches=self.batches - earlier.batches,
            ledger=self.ledger.since(earlier.ledger),
            wait=self.wait.since(earlier.wait),
            latency=self.latency.since(earlier.latency),
        )

    @property
    def packets_in(self) -> int:
        """Packets that the worker took."""
        return self.ledger.taken.total()

    @property
    def packets_out(self) -> int:
        """Packets that the worker gave."""
        return self.ledger.given.total()


TIMES: dict[str, str] = {
    one.name: one.metadata["meaning"] for one in fields(WorkerMetrics) if "meaning" in one.metadata
}
# Every plain counter of `WorkerMetrics`: its name and what it means.
COUNTERS: dict[str, str] = {
    "packets_in": "Packets that a stage took.",
    "packets_out": "Packets that a stage gave.",
    **TIMES,
}


class Percentile:
    """An attribute of a snapshot: a percentile of one of its histograms, in ms."""

    def __init__(self, histogram: Callable[[Any], Histogram], percent: float):
        self._histogram, self._percent = histogram, percent

    def __get__(self, owner: object, kind: type | None = None) -> float:
        return self._histogram(owner).percentile_ms(self._percent)


def per_second(packets: int, run_ns: int) -> float:
    """A rate; 0 where no time has passed."""
    return packets / run_ns * 1e9 if run_ns else 0.0


def add_up(counters: Iterable[Counter[T]]) -> Counter[T]:
    """The sum of counters, while other threads may still be counting."""
    total: Counter[T] = Counter()
    for counter in counters:
        total.update(counter.copy())  # a copy is one step for other threads, which may still be counting
    return total
