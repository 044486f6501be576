"""One snapshot of a run: its stages, edges and streams as counted, and every value that is derived from them.

Snapshots of one run in several processes add up (`total`); two snapshots of a run give the time between them
(`since`). Every view draws from here: the run's table, the control API, Prometheus, `top` and `profile`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipeline.measurement.faults import Fault, faults_of
from pipeline.measurement.ledger import Ledger, Losses, by_reason
from pipeline.measurement.metrics import Histogram, Percentile, add_up, per_second
from pipeline.measurement.stage_stats import EdgeStats, StageStats
from pipeline.measurement.stream_stats import PastStreams, StreamStats


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
        return per_second(self.finished, self.run_ns)

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
        return add_up([place.dropped for place in self._ledgers.values()])

    @property
    def dropped(self) -> int:
        """Packets lost anywhere, for whatever reason."""
        return self.losses.total()

    def dropped_at(self, stage: str) -> dict[str, int]:
        """Packets lost in the queues of a stage and set aside by it, by reason."""
        places = {stage, *(edge.name for edge in self.edges if edge.consumer == stage)}
        return by_reason(add_up(one.dropped for name, one in self._ledgers.items() if name in places))

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
