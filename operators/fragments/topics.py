"""The topics between the fragments of a graph: `GRAPH.NODE` for each node with edges to other fragments."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass

from operators.fragments.between import Between, Codec, between_of
from operators.kafka.client import BrokerError, connect, explain
from operators.kafka.connection import VARIABLES, Connection
from pipeline.definition.fragment_rules import producers_of
from pipeline.errors import ConfigError
from pipeline.graph import Graph
from pipeline.node import Node

LARGEST_BYTES = 32 << 20  # of a message: a raw 4K frame is 25 MB
LEGAL_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")  # Kafka's rule

log = logging.getLogger("posestream.fragments")


@dataclass(frozen=True)
class Topic:
    """Carries the packets of one node to other fragments."""

    name: str
    producer: str  # name of the node
    image: Codec


def topics(graph: Graph) -> list[Topic]:
    """The topics that a graph needs to run in fragments, in the graph's order.

    Raises:
        ConfigError: an option of `between:` is wrong, a fragment needs pictures that `between: {image: none}`
            does not send, or a topic would get a name that Kafka does not allow.
    """
    between = between_of(graph)
    crossing = {node.name for producers in producers_of(graph.nodes).values() for node in producers}
    return [_topic(graph, node, between) for node in graph.nodes if node.name in crossing]


def _topic(graph: Graph, producer: Node, between: Between) -> Topic:
    name = f"{graph.name}.{producer.name}"
    if not LEGAL_TOPIC.fullmatch(name):
        raise ConfigError(
            f"{graph.where} {producer.name}: no topic can be named {name!r}, only with letters, digits, '.', "
            "'_' and '-', at most 249; rename the graph or the node"
        )
    user = next((node for node in _downstream(graph, producer) if "image" in node.ports.needs), None)
    if user and between.image == "none":
        raise ConfigError(
            f"{graph.where} between.image: none, but {user.name} ({user.op}) in fragment {user.fragment} "
            f"needs the pictures of {producer.name}; set jpeg, png or raw, or move {user.name}"
        )
    return Topic(name, producer.name, between.image if user else "none")


def _downstream(graph: Graph, producer: Node) -> list[Node]:
    """All nodes in other fragments that the packets of a node reach."""
    reached: list[Node] = []
    for node in graph.nodes:  # in topological order
        senders = {producer.name, *(other.name for other in reached)}
        if node.fragment != producer.fragment and senders & set(node.after):
            reached.append(node)
    return reached


def create_topics(topics: Iterable[Topic], between: Between) -> None:
    """Create the topics that do not exist yet.

    Raises:
        BrokerError: no broker can be used, or it refuses to create a topic.
        OptionError: the connection's options contradict each other.
    """
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError, TopicAlreadyExistsError

    connection = Connection.of(**{name: between.kafka_options.get(name) for name in VARIABLES})
    configs = {"retention.ms": str(1000 * between.keep_s), "max.message.bytes": str(LARGEST_BYTES)}
    settings = {
        "num_partitions": between.partitions,
        "replication_factor": between.replication,
        "configs": configs,
    }
    admin = connect(KafkaAdminClient, connection)
    try:
        for topic in topics:
            try:
                admin.create_topics({topic.name: settings}, wait_for_metadata=True)
                log.info("created the topic %s: %d partitions", topic.name, between.partitions)
            except TopicAlreadyExistsError:  # created by hand, or by another worker
                pass
            except KafkaError as error:
                raise BrokerError(explain(error, connection, topic=topic.name)) from error
    finally:
        admin.close()
