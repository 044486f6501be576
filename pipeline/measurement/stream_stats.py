"""Snapshots of streams, and the sums of those that ended long ago."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

from pipeline.measurement.metrics import Histogram, Percentile, per_second


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
        return per_second(self.finished, self.run_ns)

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
