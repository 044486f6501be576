"""Clients of kafka-python that have reached a broker, and errors in one line, within seconds."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from typing import Any, TypeVar

from operators.kafka.broker_check import find_fault
from operators.kafka.connection import Connection
from pipeline.errors import SourceError

Client = TypeVar("Client")

# kafka-python logs every attempt to connect, many a second, and at DEBUG all that it sends, passwords too.
# Silence it unless the user has set its level: we log the cause ourselves, once.
if logging.getLogger("kafka").level == logging.NOTSET:
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


class BrokerError(SourceError):
    """Kafka cannot be used: no broker answers, it refuses us, or the topic does not exist."""


def connect(
    client: type[Client], connection: Connection, *, timeout_s: float = 5.0, **options: Any
) -> Client:
    """A KafkaConsumer, KafkaProducer or KafkaAdminClient that has reached a broker.

    Raises:
        BrokerError: within about `timeout_s`: no broker can be used, with the reason.
        OptionError: the password is missing.
    """
    from kafka.errors import KafkaError
    from kafka.net.compat import KafkaNetClient

    settings = connection.client_options() | options
    if fault := connection_fault(connection, timeout_s):
        raise BrokerError(fault)
    made: list[KafkaNetClient] = []

    def keep(**configs: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(**configs))
        return made[0]

    try:
        return client(bootstrap_timeout_ms=round(1000 * timeout_s), kafka_client=keep, **settings)  # type: ignore[call-arg]
    except KafkaError as error:
        for inner in made:  # the client's constructor leaks this thread when it fails
            inner.close()
        raise BrokerError(explain(error, connection)) from error


def connection_fault(connection: Connection, timeout_s: float = 3.0) -> str | None:
    """Why none of the brokers can be used, in one line; None if one of them can.

    Raises:
        OptionError: the password is missing.
    """
    faults: dict[str, str] = {}
    for host, port in connection.addresses:
        fault = find_fault(
            host,
            port,
            timeout_s / len(connection.addresses),
            tls=connection.tls,
            mechanism=connection.sasl_mechanism if connection.uses_sasl else "",
            login=connection.login(),
        )
        if fault is None:
            return None
        faults[f"{host}:{port}"] = fault
    if len(set(faults.values())) == 1:
        return f"kafka {','.join(faults)}: {fault}"
    return "kafka " + "; ".join(f"{broker}: {fault}" for broker, fault in faults.items())


def explain(error: Exception, connection: Connection, *, topic: str | None = None) -> str:
    """An error of kafka-python in one line: what is wrong and what to do.

    If the error may come from a broker that does not answer, the brokers are asked for the reason.
    """
    from kafka import errors

    brokers = f"kafka {connection.brokers}"
    who = f"user {connection.username}" if connection.username else "a client without user name"
    match error:
        case errors.TopicAuthorizationFailedError() | errors.GroupAuthorizationFailedError():
            group = isinstance(error, errors.GroupAuthorizationFailedError)
            what = "the consumer group" if group else f"topic {topic}" if topic else "the topic"
            return (
                f"{brokers}: {who} may not use {what}; have the broker's administrator allow it (kafka-acls)"
            )
        case errors.AuthorizationError() | errors.ClusterAuthorizationFailedError():
            return f"{brokers}: {who} may not do this; have the broker's administrator allow it (kafka-acls)"
        case errors.UnknownTopicOrPartitionError():
            return f"{brokers}: there is no topic {topic or 'of this name'}"
        case errors.RetriableError() | errors.SaslAuthenticationFailedError():
            fault = connection_fault(connection)
            return fault or f"{brokers}: the broker answers, but not in time: {_first_line(error)}"
    return f"{brokers}: {_first_line(error)}"


def missing_topic(connection: Connection, topic: str, topics: Iterable[str]) -> str:
    """The error line for a topic that does not exist, with the most similar names in `topics`."""
    close = difflib.get_close_matches(topic, sorted(topics), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "create it, or start what publishes to it"
    return f"kafka {connection.brokers}: there is no topic {topic}; {hint}"


def partitions(admin: Any, connection: Connection, topic: str) -> list[int]:
    """The partitions of a topic.

    Raises:
        BrokerError: the topic does not exist (with similar names), or we may not see it.
    """
    from kafka import errors

    try:
        found = admin.describe_topics([topic])[0]
        if found["error_code"] == errors.UnknownTopicOrPartitionError.errno:
            names = [name for name in admin.list_topics() if not name.startswith("__")]
            raise BrokerError(missing_topic(connection, topic, names))
        if found["error_code"]:
            raise errors.for_code(found["error_code"])()
    except errors.KafkaError as error:
        raise BrokerError(explain(error, connection, topic=topic)) from error
    return sorted(part["partition_index"] for part in found["partitions"])


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines and lines[0] else type(error).__name__
