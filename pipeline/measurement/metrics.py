"""What the threads of a run count as they work: cheap enough to be always on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate
from typing import Any

# (stream, reason): packets. The stream is "" for the streams that a run has forgotten.
Losses = Counter[tuple[str, str]]

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
    shift = max(ns.bit_length() - _SUB_BITS - 1, 0)
    return (shift << _SUB_BITS) + (ns >> shift)


def by_reason(losses: Losses) -> dict[str, int]:
    """Add up the losses of all streams: reason to packets."""
    reasons: Counter[str] = Counter()
    for (_, reason), packets in losses.items():
        reasons[reason] += packets
    return {reason: packets for reason, packets in reasons.items() if packets}


def by_stream(losses: Losses) -> Counter[str]:
    """Add up the losses of all reasons: stream to packets."""
    streams: Counter[str] = Counter()
    for (stream, _), packets in losses.items():
        streams[stream] += packets
    return streams


def forget_losses(losses: Losses, streams: Collection[str]) -> None:
    """Move the losses of these streams to the stream "", which stands for all forgotten streams."""
    for stream, reason in [key for key in losses.copy() if key[0] in streams]:
        losses["", reason] += losses.pop((stream, reason))


def losses_since(now: Losses, earlier: Losses) -> Losses:
    """Return what was lost after `earlier`; negative for a stream that was forgotten in between."""
    lost = now.copy()
    lost.subtract(earlier)
    return Counter({key: packets for key, packets in lost.items() if packets})


def _counted(meaning: str) -> Any:
    """Declare a plain counter. Nanoseconds end in `_ns`. Prometheus exports it with this help text."""
    return field(default=0, metadata={"meaning": meaning})


@dataclass(slots=True, eq=False)
class WorkerMetrics:
    """What one worker of a stage did; only its thread writes here."""

    packets_in: int = _counted("Packets that a stage took.")
    packets_out: int = _counted("Packets that a stage gave.")
    busy_ns: int = _counted("Time at work, computing or waiting, over all workers.")
    cpu_ns: int = _counted("Processor time of the workers' own threads; engines may have more threads.")
    blocked_ns: int = _counted("Time until the results were on the next edges, over all workers.")
    batches: Counter[int] = field(default_factory=Counter)  # batch size: calls
    dropped: Losses = field(default_factory=Counter)
    wait: Histogram = field(default_factory=Histogram)  # in the queue
    latency: Histogram = field(default_factory=Histogram)  # in the queue and at work

    def add(self, other: WorkerMetrics) -> None:
        """Add what another worker did; its thread may go on writing."""
        for name in COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        # `Counter.copy` is one step for other threads; iterating would fail when the worker adds a key.
        self.batches.update(other.batches.copy())
        self.dropped.update(other.dropped.copy())
        self.wait.merge(other.wait)
        self.latency.merge(other.latency)

    def since(self, earlier: WorkerMetrics) -> WorkerMetrics:
        """Return what was done after `earlier`, an earlier copy."""
        return WorkerMetrics(
            **{name: getattr(self, name) - getattr(earlier, name) for name in COUNTERS},
            batches=self.batches - earlier.batches,
            dropped=losses_since(self.dropped, earlier.dropped),
            wait=self.wait.since(earlier.wait),
            latency=self.latency.since(earlier.latency),
        )


# Every plain counter of `WorkerMetrics`: its name and what it means.
COUNTERS: dict[str, str] = {
    one.name: one.metadata["meaning"] for one in fields(WorkerMetrics) if "meaning" in one.metadata
}
