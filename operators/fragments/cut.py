"""Fragments over Kafka: a graph is cut where edges lead from one fragment to another; a topic carries those.

    posestream attach yard=rtsp://… --graph farm --fragment ingest
    posestream run --graph farm --fragment pose            # as often as there are machines

The edges out of a node to other fragments become one topic, `GRAPH.NODE`; each fragment behind it is a
consumer group, `GRAPH.FRAGMENT`. A fragment commits what has left it, and what it sends on has left once a
broker has acknowledged it: a worker that dies loses nothing, its successor does the last frames over.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from operators import REGISTRY
from operators.graph_files import free_name
from operators.kafka.client import BrokerError, connect, explain
from operators.kafka.connection import VARIABLES, Connection
from pipeline.definition.fragment_rules import producers_of
from pipeline.definition.options import options_model
from pipeline.errors import ConfigError, nearest
from pipeline.graph import Graph, check_graph, resolve
from pipeline.node import Node

Codec = Literal["jpeg", "png", "raw", "none"]
LARGEST = 32 << 20  # bytes of a message: a raw 4K frame is 25 MB
OURS = {"topic", "group", "wait", "provides", "image"}  # options that a cut decides
LEGAL_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")  # Kafka's rule

log = logging.getLogger("posestream.fragments")


class Between(BaseModel):
    """What a graph says under `between:`; every other key is an option of kafka_sink, or of kafka_source."""

    model_config = ConfigDict(extra="allow")
    image: Codec = Field("jpeg", description="how pictures travel, on the edges behind which they are needed")
    partitions: int = Field(24, ge=1, le=100_000, description="of a topic: the most workers of a fragment")
    replication: int = Field(-1, ge=-1, description="copies of a topic; -1: as the broker has it")
    keep_s: int = Field(3600, ge=60, description="how long a topic keeps its messages, read or not")

    @property
    def given(self) -> dict[str, Any]:
        """The options of sinks and sources."""
        return self.model_extra or {}


@dataclass(frozen=True)
class Topic:
    """What carries the packets of one node to other fragments."""

    name: str
    producer: str  # the node
    image: Codec


@dataclass(frozen=True)
class Part:
    """One fragment, ready to run."""

    graph: Graph
    reads: Topic | None  # none: it has the graph's own source
    writes: tuple[Topic, ...]
    between: Between

    @property
    def sources(self) -> dict[str, str]:
        """What to run it on, if it reads a topic."""
        if self.reads is None:
            return {}
        return {self.reads.name: f"kafka:///{self.reads.name}?group={self.graph.name}"}


def topics(graph: Graph) -> list[Topic]:
    """The topics that a graph needs to run in fragments, in the graph's order.

    Raises:
        ConfigError: a picture is needed where none may travel, or a name that no topic can have.
    """
    between = between_of(graph)
    crossing = {node.name for found in producers_of(graph.nodes).values() for node in found}
    return [_topic(graph, node, between) for node in graph.nodes if node.name in crossing]


def cut(graph: Graph, fragment: str, *, live: bool = False) -> Part:
    """The part of a graph that is `fragment`, with topics in place of the edges that it is cut from.

    A `live` one does not wait for brokers with what comes from cameras: that lies in a spool meanwhile.

    Raises:
        ConfigError: the graph has no such fragment, or cannot be cut.
    """
    if not graph.fragments:
        raise ConfigError(
            f"{graph.where}: no node is in a fragment; give each `fragment: NAME` to run the graph in parts"
        )
    if fragment not in graph.fragments:
        raise ConfigError(f"{graph.where}: no fragment {fragment!r}; {nearest(fragment, graph.fragments)}")
    between = between_of(graph)
    by_producer = {topic.producer: topic for topic in topics(graph)}
    inside = [node for node in graph.nodes if node.fragment == fragment]
    outside = producers_of(graph.nodes)[fragment]
    reads = by_producer[outside[0].name] if outside else None
    writes = [by_producer[node.name] for node in inside if node.name in by_producer]
    nodes: dict[str, Any] = {}
    if reads:  # it takes the name of the node whose packets it brings, so nothing else changes
        nodes[reads.producer] = _source(graph, reads, between)
    nodes |= {node.name: _own(graph, node, reads) for node in inside}
    wait = "spooled" if live and not reads else "delivered"
    for topic in writes:
        nodes[free_name(f"{topic.producer}_topic", nodes)] = _sink(topic, between, wait)
    processes = 1 if reads else graph.processes
    spec = {"name": f"{graph.name}.{fragment}", "processes": processes, "graph": nodes}
    return Part(check_graph(spec, REGISTRY, graph.where), reads, tuple(writes), between)


def make_topics(part: Part) -> None:
    """Make the topics that a part reads and writes, those that are not there yet.

    Raises:
        BrokerError: no broker can be reached, or it refuses.
    """
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError, TopicAlreadyExistsError

    between = part.between
    connection = Connection.of(**{name: between.given.get(name) for name in VARIABLES})
    admin = connect(KafkaAdminClient, connection)
    try:
        for topic in filter(None, (part.reads, *part.writes)):
            configs = {"retention.ms": str(1000 * between.keep_s), "max.message.bytes": str(LARGEST)}
            wanted = {"num_partitions": between.partitions, "replication_factor": between.replication}
            try:
                admin.create_topics({topic.name: {**wanted, "configs": configs}}, wait_for_metadata=True)
                log.info("made the topic %s: %d partitions", topic.name, between.partitions)
            except TopicAlreadyExistsError:  # by hand, or by another worker
                pass
            except KafkaError as error:
                raise BrokerError(explain(error, connection, topic=topic.name)) from error
    finally:
        admin.close()


def between_of(graph: Graph) -> Between:
    """What a graph says of the topics between its fragments.

    Raises:
        ConfigError: an unknown or ill-typed option.
    """
    try:
        between = Between.model_validate(graph.between)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{graph.where} between.{first['loc'][0]}"
        raise ConfigError(f"{where}: {first['msg']}, found {first['input']!r}") from None
    known = ({*_options("kafka_sink"), *_options("kafka_source")} - OURS) | set(Between.model_fields)
    for name in between.given:
        if name not in known:
            raise ConfigError(f"{graph.where} between.{name}: unknown option; {nearest(name, sorted(known))}")
    return between


def _topic(graph: Graph, producer: Node, between: Between) -> Topic:
    name = f"{graph.name}.{producer.name}"
    if not LEGAL_TOPIC.fullmatch(name):
        raise ConfigError(
            f"{graph.where} {producer.name}: no topic can be named {name!r}, only with letters, digits, '.', "
            "'_' and '-', at most 249; rename the graph or the node"
        )
    user = next((node for node in _behind(graph, producer) if "image" in node.ports.needs), None)
    if user and between.image == "none":
        raise ConfigError(
            f"{graph.where} between.image: none, but {user.name} ({user.op}) in fragment {user.fragment} "
            f"needs the pictures of {producer.name}; take jpeg, png or raw, or move {user.name}"
        )
    return Topic(name, producer.name, between.image if user else "none")


def _behind(graph: Graph, producer: Node) -> list[Node]:
    """All nodes in other fragments that the packets of a node come to."""
    reached: list[Node] = []
    for node in graph.nodes:  # in topological order
        makers = {producer.name, *(other.name for other in reached)}
        if node.fragment != producer.fragment and makers & set(node.after):
            reached.append(node)
    return reached


def _own(graph: Graph, node: Node, reads: Topic | None) -> dict[str, Any]:
    """A node's own spec. Behind a topic nothing is dropped, as what has no room can wait there."""
    own = {name: value for name, value in graph.spec["graph"][node.name].items() if name != "fragment"}
    if reads and reads.producer in node.after:
        own.setdefault("on_full", "block")
    if reads and node.op == "kafka_sink":
        own.setdefault("wait", "delivered")
    return own


def _source(graph: Graph, topic: Topic, between: Between) -> dict[str, Any]:
    fields = _fields(graph, graph.node(topic.producer)) - ({"image"} if topic.image == "none" else set())
    return {
        "op": "kafka_source",
        "provides": sorted(fields),
        "on_error": "fail",  # its only source: without it there is nothing to do
        **_given(between, "kafka_source"),
    }


def _sink(topic: Topic, between: Between, wait: str) -> dict[str, Any]:
    options = _given(between, "kafka_sink")
    if "spool_dir" in options:  # what is left in a spool must not go to another topic
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
    """What a node's packets hold."""
    return node.ports.provides.union(*(_fields(graph, graph.node(name)) for name in node.after))


def _given(between: Between, op: str) -> dict[str, Any]:
    options = _options(op)
    return {name: value for name, value in between.given.items() if name in options}


def _options(op: str) -> list[str]:
    return list(options_model(resolve(REGISTRY[op])).model_fields)
