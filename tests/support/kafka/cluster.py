"""A cluster of real Kafka nodes, each of which a test may kill, pause and restart."""

from __future__ import annotations

from pathlib import Path

from tests.support.kafka.broker import Broker
from tests.support.kafka.ports import free_ports
from tests.support.kafka.topics import Topics


class Cluster(Topics):
    """Three nodes on loopback: each partition is on all of them, and acknowledged once two have it."""

    def __init__(self, folder: Path, nodes: int = 3):
        voters = dict(zip(range(1, nodes + 1), free_ports(nodes), strict=True))
        self.nodes = [Broker(Path(folder) / str(node), node=node, voters=voters) for node in voters]
        self.bootstrap = ",".join(node.bootstrap for node in self.nodes)

    def __enter__(self) -> Cluster:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> Cluster:
        """Start all nodes; returns when they serve clients."""
        for node in self.nodes:
            node.start(wait=False)  # no node is ready before a majority runs
        for node in self.nodes:
            node.wait_ready()
        return self

    def stop(self) -> None:
        """Kill all nodes: in an orderly shutdown the last ones would wait for a majority in vain."""
        for node in self.nodes:
            node.kill_if_started()

    def ensure_running(self) -> Cluster:
        """Let all nodes run again, whatever a test has done to them."""
        for node in self.nodes:
            node.ensure_running(wait=False)
        for node in self.nodes:
            node.wait_ready()
        return self

    def create_topic(self, name: str, *, partitions: int = 1, replicas: int = 3, **configs: str) -> None:
        """Create a topic on all nodes (`configs` with _ for .) and wait until it has leaders."""
        super().create_topic(name, partitions=partitions, replicas=replicas, **configs)
