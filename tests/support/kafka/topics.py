"""Topics for tests, on a broker that we start or on one that runs already."""

from __future__ import annotations

import time
import uuid

from kafka import KafkaAdminClient
from kafka.admin import NewTopic


class Topics:
    """What brokers and clusters share: they create topics."""

    bootstrap: str  # HOST:PORT, several with commas

    def create_topic(self, name: str, *, partitions: int = 1, replicas: int = 1, **configs: str) -> None:
        """Create a topic (`configs` with _ for .) and wait until every partition has a leader."""
        create_topic(self.bootstrap, name, partitions=partitions, replicas=replicas, **configs)

    def new_topic(self, *, partitions: int = 1) -> str:
        """Create a topic with a unique name and return the name."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.create_topic(name, partitions=partitions)
        return name


class RunningBroker(Topics):
    """A broker that somebody else runs: we know only its address."""

    def __init__(self, bootstrap: str):
        self.bootstrap = bootstrap


def create_topic(bootstrap: str, name: str, *, partitions: int, replicas: int = 1, **configs: str) -> None:
    """Create a topic (`configs` with _ for .) and wait until every partition has a leader."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=20000)
    try:
        settings = {key.replace("_", "."): value for key, value in configs.items()}
        admin.create_topics([NewTopic(name, partitions, replicas, topic_configs=settings)])
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = [part for topic in admin.describe_topics([name]) for part in topic["partitions"]]
            if len(found) == partitions and all(part["leader_id"] >= 0 for part in found):
                return
            time.sleep(0.05)
        raise RuntimeError(f"topic {name} has no leaders after 20 s")
    finally:
        admin.close()
