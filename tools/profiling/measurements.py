"""What was measured of a run, as the verdict and the advice read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.graph import Graph
from pipeline.node import Node
from tools.profiling.bounds import on_cpu
from tools.profiling.document import Edge, Engine, Place, Stage, Use

OTHER_CORES = 0.5  # cores that other programs may keep busy without affecting the verdict


@dataclass(frozen=True)
class Measured:
    """The measurements that a verdict is based on."""

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
        """The stage that reads the sources."""
        return self.stages[0]

    @cached_property
    def busiest(self) -> Stage:
        """The stage with the largest share of work, among those that can hold up others."""
        others = [stage for stage in self.stages[1:] if not self.on_lossy_branch(stage)]
        return max(others, key=lambda stage: stage.busy)

    def on_lossy_branch(self, stage: Stage) -> bool:
        """Whether a stage is on a branch that drops packets while another branch drops none."""
        lossy = [self._drops_alone(edge) for edge in self.edges if edge.consumer == stage.name]
        before = [other for other in self.stages[1:] if other.name in self.node(stage).after]
        return any(lossy) or any(map(self.on_lossy_branch, before))

    def _drops_alone(self, edge: Edge) -> bool:
        siblings = [other for other in self.edges if other.producer == edge.producer and other is not edge]
        return bool(edge.dropped) and any(not other.dropped for other in siblings)

    @property
    def python_cores(self) -> float:
        """Cores that stages keep busy outside of their engines, partly in C without the interpreter lock."""
        return sum(
            stage.cores * (1 - stage.engine / stage.busy) if stage.busy else 0.0 for stage in self.stages
        )

    @property
    def other_cores(self) -> float:
        """Cores that other programs keep busy."""
        return max((self.use.cores_all or 0.0) - self.use.cores, 0.0)

    @property
    def cores_in_words(self) -> str:
        """How many cores are busy, as part of a sentence."""
        others = f" (and {self.other_cores:.1f} by other programs)" if self.other_cores > OTHER_CORES else ""
        return f"{self.use.cores:.1f} of {self.cores} cores are busy{others}"

    def node(self, stage: Stage) -> Node:
        """Return the stage's node in the graph."""
        return self.graph.node(stage.name)

    def threads(self, stage: Stage) -> int:
        """Count the CPU threads of a stage's engine; 1 without an engine, or if it runs on a GPU."""
        own = (engine for engine in self.engines if engine.stage == stage.name)
        return max((engine.threads for engine in own if on_cpu(engine.backend)), default=1)

    def cores_of(self, stage: Stage) -> float:
        """Estimate the cores that a stage keeps busy: all threads of its engine count while a call runs."""
        return stage.cores + stage.engine * stage.workers * (self.threads(stage) - 1)

    def in_order(self, stage: Stage) -> bool:
        """Whether more workers would find no stream to work on: a worker takes whole streams, in order."""
        return self.node(stage).per_stream and stage.workers >= self.streams
