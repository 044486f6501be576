"""Free ports for brokers."""

from __future__ import annotations

import random
import socket

from tests.support.kafka.runtime import NoKafkaError


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens, below those that the system gives to outgoing connections.

    A client that keeps trying to reach a stopped broker could otherwise be given the broker's own port, and
    connect to itself.
    """
    found: list[int] = []
    for port in random.Random().sample(range(15000, 32000), 500):
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise NoKafkaError("no free ports between 15000 and 32000 on 127.0.0.1 for a broker")
