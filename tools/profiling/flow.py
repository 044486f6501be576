"""The closed sum: what became of every packet that was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.graph import Graph
from pipeline.measurement.stats import EdgeStats, RunStats, StageStats
from pipeline.node import Node
from tools.profiling.document import Flow, Unaccounted


def flow_of(graph: Graph, stats: RunStats) -> Flow:
    """Of a whole run, from its beginning, on one way through the graph.

    It is the way to the last stage that finished fewest packets; where a stage joins several inputs, the
    first of them. Each edge is also looked at by itself, those beside the way as well.
    """
    stages = {stage.name: stage for stage in stats.stages}
    edges = {edge.name: edge for edge in stats.edges}
    ends = [node for node in graph.nodes if not graph.consumers(node)]
    end = min(ends, key=lambda node: stages[node.name].packets_out)
    read = stats.read
    finished = stages[end.name].packets_out
    dropped: Counter[str] = Counter()
    in_flight = 0
    for node in _way(graph, end):
        places: list[StageStats | EdgeStats] = [stages[node.name]]
        if node.after:
            places.append(edges[f"{node.after[0]} → {node.name}"])
        for place in places:
            dropped.update(place.dropped)
            in_flight += place.in_flight
    faults = [Unaccounted(**fault._asdict()) for fault in stats.faults]
    even = read == finished + dropped.total() + in_flight and all(edge.closed for edge in stats.edges)
    return Flow(
        read=read,
        finished=finished,
        dropped=dict(dropped),
        in_flight=in_flight,
        unaccounted=faults,
        closed=even and not faults and (len(ends) > 1 or stats.finished == finished),
    )


def _way(graph: Graph, end: Node) -> Iterator[Node]:
    """From a last stage back to the source."""
    node = end
    while node.after:
        yield node
        node = graph.node(node.after[0])
    yield node
