"""The closed sum: where every packet that was read has gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.graph import Graph
from pipeline.measurement.run_stats import RunStats
from pipeline.measurement.stage_stats import EdgeStats, StageStats
from pipeline.node import Node
from tools.profiling.document import Flow, Unaccounted


def flow_of(graph: Graph, stats: RunStats) -> Flow:
    """Add up a whole run along one path through the graph.

    The path leads to the last stage that finished the fewest packets; where a stage joins several inputs, it
    follows the first. The sum of every edge, on the path or not, is checked, too.
    """
    stages = {stage.name: stage for stage in stats.stages}
    edges = {edge.name: edge for edge in stats.edges}
    ends = [node for node in graph.nodes if not graph.consumers(node)]
    end = min(ends, key=lambda node: stages[node.name].packets_out)
    read = stats.read
    finished = stages[end.name].packets_out
    dropped: Counter[str] = Counter()
    in_flight = 0
    for node in _path(graph, end):
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


def _path(graph: Graph, end: Node) -> Iterator[Node]:
    """Walk from a last stage back to the source."""
    node = end
    while node.after:
        yield node
        node = graph.node(node.after[0])
    yield node
