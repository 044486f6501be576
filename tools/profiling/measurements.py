"""What was measured of a run, as it is judged, and what follows from it at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.graph import Graph
from pipeline.node import Node
from tools.profiling.bounds import on_cpu
from tools.profiling.document import Edge, Engine, Place, Stage, Use

OTHERS = 0.5  # cores; what other programs keep busy below that does not matter


@dataclass(frozen=True)
class Measured:
    """What there is to judge."""

    graph: Graph
    stages: Sequence[Stage]  # the source first
    edges: Sequence[Edge]
    engines: Sequence[Engine]
    use: Use
    cores: int
    live: bool
    streams: int
    processes: int
    fps: float
    places: Sequence[Place] = ()

    @property
    def source(self) -> Stage:
        """The stage that reads."""
        return self.stages[0]

    @cached_property
    def busiest(self) -> Stage:
        """Of the stages that may hold up others, the one that is at work for most of the time."""
        others = [stage for stage in self.stages[1:] if not self.beside(stage)]
        return max(others, key=lambda stage: stage.busy)

    def beside(self, stage: Stage) -> bool:
        """Whether a stage is on a branch that loses what it cannot take, while others get everything."""
        ways = [self._loses_alone(edge) for edge in self.edges if edge.consumer == stage.name]
        before = [other for other in self.stages[1:] if other.name in self.node(stage).after]
        return any(ways) or any(map(self.beside, before))

    def _loses_alone(self, edge: Edge) -> bool:
        also = [other for other in self.edges if other.producer == edge.producer and other is not edge]
        return bool(edge.dropped) and any(not other.dropped for other in also)

    @property
    def python_cores(self) -> float:
        """Cores that stages keep busy outside of their engines; some of it in C, without the lock."""
        return sum(
            stage.cores * (1 - stage.engine / stage.busy) if stage.busy else 0.0 for stage in self.stages
        )

    @property
    def others(self) -> float:
        """Cores that other programs keep busy."""
        return max((self.use.cores_all or 0.0) - self.use.cores, 0.0)

    @property
    def use_said(self) -> str:
        """How much of the processors is used."""
        beside = f" (and {self.others:.1f} by other programs)" if self.others > OTHERS else ""
        return f"{self.use.cores:.1f} of {self.cores} cores are busy{beside}"

    def node(self, stage: Stage) -> Node:
        """The stage's node in the graph."""
        return self.graph.node(stage.name)

    def threads(self, stage: Stage) -> int:
        """Processors that a call of a stage's engine may keep busy; 1 also if none, or on a GPU."""
        own = (engine for engine in self.engines if engine.stage == stage.name)
        return max((engine.threads for engine in own if on_cpu(engine.backend)), default=1)

    def cores_of(self, stage: Stage) -> float:
        """Cores that a stage keeps busy; an engine's own threads count for as long as its calls take."""
        return stage.cores + stage.engine * stage.workers * (self.threads(stage) - 1)

    def in_order(self, stage: Stage) -> bool:
        """Whether further workers of a stage would find no stream to work on."""
        return self.node(stage).per_stream and stage.workers >= self.streams
