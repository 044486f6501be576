"""Cut one fragment out of a graph: Kafka topics replace the edges from and to other fragments.

    posestream attach yard=rtsp://… --graph farm --fragment ingest
    posestream run --graph farm --fragment pose            # on as many machines as needed

The edges from a node to other fragments become one topic, `GRAPH.NODE`. Each fragment that reads it is a
consumer group, `GRAPH.FRAGMENT`. A fragment commits the packets that have left it, and a packet that it sends
on has left it once a broker has acknowledged it. So a worker that dies loses nothing: another one does its
last frames again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from operators import REGISTRY
from operators.fragments.between import Between, between_of
from operators.fragments.topics import Topic, topics
from operators.graphs.graph_files import free_name
from pipeline.definition.fragment_rules import producers_of
from pipeline.errors import ConfigError, nearest
from pipeline.graph import Graph, check_graph
from pipeline.node import Node


@dataclass(frozen=True)
class Fragment:
    """One fragment, ready to run."""

    graph: Graph
    reads: Topic | None  # None: it has the graph's own source
    writes: tuple[Topic, ...]
    between: Between

    @property
    def topics(self) -> list[Topic]:
        """All topics that it reads or writes."""
        return [*([] if self.reads is None else [self.reads]), *self.writes]

    @property
    def sources(self) -> dict[str, str]:
        """The sources to run it on if it reads a topic: stream name to URI; else none."""
        if self.reads is None:
            return {}
        return {self.reads.name: f"kafka:///{self.reads.name}?group={self.graph.name}"}


def cut(graph: Graph, name: str, *, live: bool = False) -> Fragment:
    """The fragment `name` of a graph, with topics in place of the edges at which it is cut.

    If it is `live` and reads cameras, its packets do not wait for the broker: they go to a spool.

    Raises:
        ConfigError: the graph has no such fragment, or cannot be cut.
    """
    if not graph.fragments:
        raise ConfigError(
            f"{graph.where}: no node is in a fragment; give each `fragment: NAME` to run the graph in parts"
        )
    if name not in graph.fragments:
        raise ConfigError(f"{graph.where}: no fragment {name!r}; {nearest(name, graph.fragments)}")
    between = between_of(graph)
    by_producer = {topic.producer: topic for topic in topics(graph)}
    inside = [node for node in graph.nodes if node.fragment == name]
    outside = producers_of(graph.nodes)[name]
    reads = by_producer[outside[0].name] if outside else None
    writes = [by_producer[node.name] for node in inside if node.name in by_producer]
    nodes: dict[str, Any] = {}
    if reads:  # the source gets the name of the node whose packets it reads, so `after` need not change
        nodes[reads.producer] = _source(graph, reads, between)
    nodes |= {node.name: _spec_of(graph, node, reads) for node in inside}
    wait = "spooled" if live and not reads else "delivered"
    for topic in writes:
        nodes[free_name(f"{topic.producer}_topic", nodes)] = _sink(topic, between, wait)
    processes = 1 if reads else graph.processes
    spec = {"name": f"{graph.name}.{name}", "processes": processes, "graph": nodes}
    return Fragment(check_graph(spec, REGISTRY, graph.where), reads, tuple(writes), between)


def _spec_of(graph: Graph, node: Node, reads: Topic | None) -> dict[str, Any]:
    """The spec of a node. After a topic nothing is dropped: packets that have no room wait in the topic."""
    spec = {name: value for name, value in graph.spec["graph"][node.name].items() if name != "fragment"}
    if reads and reads.producer in node.after:
        spec.setdefault("on_full", "block")
    if reads and node.op == "kafka_sink":
        spec.setdefault("wait", "delivered")
    return spec


def _source(graph: Graph, topic: Topic, between: Between) -> dict[str, Any]:
    fields = _fields(graph, graph.node(topic.producer)) - ({"image"} if topic.image == "none" else set())
    return {
        "op": "kafka_source",
        "provides": sorted(fields),
        "on_error": "fail",  # it is the only source: without it the run has nothing to do
        **between.options_of("kafka_source"),
    }


def _sink(topic: Topic, between: Between, wait: str) -> dict[str, Any]:
    options = between.options_of("kafka_sink")
    if "spool_dir" in options:  # a spool for each topic: its messages must not go to another one
        options["spool_dir"] = f"{options['spool_dir']}/{topic.name}"
    own = {
        "op": "kafka_sink",
        "after": topic.producer,
        "topic": topic.name,
        "image": topic.image,
        "wait": wait,
    }
    return own | options


def _fields(graph: Graph, node: Node) -> frozenset[str]:
    """All fields of a node's packets, its own and those of the nodes before it."""
    return node.ports.provides.union(*(_fields(graph, graph.node(name)) for name in node.after))
