"""What a run keeps of the sources that ended long ago: sums, and the numbers with which they would go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.measurement.metrics import WorkerMetrics
from pipeline.measurement.stats import PastStreams, StreamStats
from pipeline.reader import Numbers, Reader


class EndedSources:
    """The sources that a run has forgotten, so that its memory stays bounded; the run's lock guards it."""

    def __init__(self) -> None:
        self.streams = PastStreams()
        # What the sources did and counted. Replaced, never changed, so that it can be read without the lock.
        self.work = WorkerMetrics()
        self.counters: Counter[str] = Counter()
        self.numbers: dict[str, Numbers] = {}  # by source, in case it is attached again

    def add(self, reader: Reader, streams: Sequence[StreamStats]) -> None:
        """Add a source that has ended, and its streams."""
        work = WorkerMetrics()
        work.add(self.work)
        work.add(reader.metrics)
        self.work, self.counters = work, self.counters + reader.operator.counters
        self.streams += PastStreams.of(streams)
        self.numbers[reader.stream] = reader.next
