"""Wiring: makes the stages of a graph and the edges between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.edges.edge import Edge
from pipeline.edges.inbox import Inbox
from pipeline.edges.lane import Lane, Policy
from pipeline.errors import PosestreamError
from pipeline.graph import Graph
from pipeline.measurement.tracing import Tracer
from pipeline.node import Node
from pipeline.operator import RunInfo
from pipeline.packet import Item
from pipeline.stages.stage import Stage

CAPACITY = 4  # packets on an edge with files, at least, unless the graph says otherwise
CAPACITY_BEHIND_CAMERA = 2  # for each stream: a frame that comes early, or two at once, drops none
JOIN_MAX = 64  # live: frames of a stream that wait for their other parts; files wait without a limit

Finished = Callable[[str, Sequence[Item]], None]  # a last stage, and the items that have left it
Failed = Callable[[PosestreamError], None]


@dataclass(frozen=True)
class RunSettings:
    """How a graph is run."""

    info: RunInfo
    cores: int  # processors that the run may use
    streams: int | None = None  # how many sources there will be; None: they come and go
    max_age_ns: int | None = None
    tracer: Tracer | None = None

    @property
    def live(self) -> bool:
        """Whether the sources are cameras, which do not wait."""
        return self.info.live

    def info_for(self, sharing: int) -> RunInfo:
        """What an operator learns of the run when `sharing` operators share the processors."""
        return self.info._replace(cores=max(1, self.cores // max(1, sharing)))


@dataclass
class Wiring:
    """The stages and edges of a run, in the order of the graph's nodes."""

    stages: list[Stage] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    source_edges: list[Edge] = field(default_factory=list)  # the edges behind the source


def wire(graph: Graph, settings: RunSettings, *, finished: Finished, failed: Failed) -> Wiring:
    """Make the stages and edges of a graph, from the last node to the first: an edge needs its consumer."""
    wiring = Wiring()
    inboxes: dict[str, list[Inbox]] = {}
    for node in reversed(graph.nodes):
        edges = [_edge(node, consumer, inboxes) for consumer in graph.consumers(node)]
        wiring.edges[:0] = edges
        if node is graph.source:
            wiring.source_edges = edges
            continue
        workers = workers_of(node, settings)
        inputs = [graph.node(name) for name in node.after]
        own_inboxes = workers if node.per_stream and workers > 1 else 1
        inboxes[node.name] = [
            Inbox(
                [_lane(producer, node, graph, settings) for producer in inputs],
                join_max=JOIN_MAX if settings.live else None,
            )
            for _ in range(own_inboxes)
        ]
        stage = Stage(
            node.name,
            [node.make() for _ in range(workers)],
            inboxes[node.name],
            edges,
            batching=node.batching,
            on_error=node.on_error_in(live=settings.live),
            finished=lambda items, name=node.name: finished(name, items),  # type: ignore[misc]
            failed=failed,
            tracer=settings.tracer,
        )
        wiring.stages.insert(0, stage)
    return wiring


def workers_of(node: Node, settings: RunSettings) -> int:
    """The workers of a node; `auto` is one for each processor, but no more than there are streams."""
    if node.workers != "auto":
        return node.workers
    if node.operator.across_streams:
        return 1
    if node.per_stream and settings.streams is not None:
        return max(1, min(settings.cores, settings.streams))
    return settings.cores


def _edge(producer: Node, consumer: Node, inboxes: Mapping[str, Sequence[Inbox]]) -> Edge:
    index = consumer.after.index(producer.name)
    return Edge(
        producer.name, consumer.name, [(inbox, inbox.lanes[index]) for inbox in inboxes[consumer.name]]
    )


def _lane(producer: Node, consumer: Node, graph: Graph, settings: RunSettings) -> Lane:
    behind_camera = settings.live and producer is graph.source
    policy: Policy = consumer.on_full or ("drop_oldest" if behind_camera else "block")
    return Lane(_capacity(consumer, settings, behind_camera=behind_camera), policy, settings.max_age_ns)


def _capacity(consumer: Node, settings: RunSettings, *, behind_camera: bool) -> int:
    """Enough to keep the consumer busy: a batch. In a live run, packets that wait longer only grow old."""
    if consumer.capacity is not None:
        return consumer.capacity
    if not settings.live:
        return max(CAPACITY, consumer.batching.max)
    return CAPACITY_BEHIND_CAMERA if behind_camera else consumer.batching.max
