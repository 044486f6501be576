"""What a run keeps of sources that are over for long: their sums, and where their numbers would go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.measurement.stats import StreamFigures, together
from pipeline.measurement.metrics import PastStreams, WorkerMetrics
from pipeline.reader import Numbers, Reader


class Past:
    """Sources that a run has forgotten, so that it can go on for years; the run's lock guards it."""

    def __init__(self) -> None:
        self.streams = PastStreams()
        # What the sources did and counted. Replaced, never changed, so that it can be read without the lock.
        self.work = WorkerMetrics()
        self.counters: Counter[str] = Counter()
        self.numbers: dict[str, Numbers] = {}  # by name, should it ever come again

    def add(self, reader: Reader, streams: Sequence[StreamFigures]) -> None:
        """Add a source that is over, and its streams."""
        work = WorkerMetrics()
        work.add(self.work)
        work.add(reader.metrics)
        self.work, self.counters = work, self.counters + reader.operator.counters
        self.streams += together(streams)
        self.numbers[reader.stream] = reader.next
