"""A producer of confluent-kafka: librdkafka works in its own threads, outside the interpreter lock."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from operators.kafka.client import BrokerError, connection_fault, explain, missing_topic
from operators.kafka.connection import Connection
from operators.kafka.producer import CONNECT_S, LARGEST_BYTES, Failure, Publishing
from operators.records.messages import Message


class ConfluentProducer:
    """A `Producer` of confluent-kafka.

    Raises:
        BrokerError: the library is not installed, or the broker or the topic cannot be used.
        OptionError: a password or a file is missing.
    """

    def __init__(self, connection: Connection, publishing: Publishing):
        try:
            import confluent_kafka
        except ImportError:
            raise BrokerError(
                'client: confluent needs confluent-kafka; run: pip install "posestream[confluent]", '
                "or set client: kafka-python"
            ) from None
        self._library, self._topic = confluent_kafka, publishing.topic
        self.failure: Failure | None = None
        self._acknowledged: list[int] = []
        self._login_refused = False
        if fault := connection_fault(connection, CONNECT_S):
            raise BrokerError(fault)
        self._producer = confluent_kafka.Producer(
            {
                **_settings(connection),
                "acks": "all",
                "enable.idempotence": True,
                "message.timeout.ms": 0,  # the spool keeps messages until they arrive
                "reconnect.backoff.max.ms": 1000,
                "message.max.bytes": LARGEST_BYTES,
                "compression.type": publishing.compression,
                "linger.ms": publishing.linger_ms,
                "batch.size": publishing.batch_bytes,
                "partitioner": "murmur2_random",  # the same as Kafka's own clients and kafka-python
                "error_cb": self._note_error,
                "logger": logging.getLogger("kafka.confluent"),
            }
        )
        self._find_topic(connection, publishing.topic)

    def _find_topic(self, connection: Connection, topic: str) -> None:
        from kafka import errors

        unknown = self._library.KafkaError.UNKNOWN_TOPIC_OR_PART
        leaderless = self._library.KafkaError.LEADER_NOT_AVAILABLE
        deadline = time.monotonic() + CONNECT_S
        while True:
            self._producer.poll(0)
            try:
                found = self._producer.list_topics(topic, timeout=CONNECT_S).topics[topic].error
            except self._library.KafkaException as error:
                self._producer.poll(0)
                cause = errors.SaslAuthenticationFailedError() if self._login_refused else error
                raise BrokerError(explain(cause, connection, topic=topic)) from None
            if found is None:
                return
            if found.code() == self._library.KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise BrokerError(explain(errors.TopicAuthorizationFailedError(), connection, topic=topic))
            if found.code() not in (unknown, leaderless) or time.monotonic() > deadline:
                names = [
                    name for name in self._producer.list_topics(timeout=CONNECT_S).topics if name != topic
                ]
                raise BrokerError(missing_topic(connection, topic, names))
            time.sleep(0.2)  # a broker that creates topics on demand takes a moment

    def _note_error(self, error: Any) -> None:
        self._login_refused |= error.code() == self._library.KafkaError._AUTHENTICATION

    def send(self, messages: Sequence[tuple[int, Message]]) -> None:
        """Queue messages for publishing; returns at once."""
        for index, message in messages:
            headers: Any = message.headers
            on_delivery = self._on_delivery(index)
            try:
                self._producer.produce(
                    self._topic, message.value, message.key, headers=headers, on_delivery=on_delivery
                )
            except (self._library.KafkaException, BufferError) as error:
                self._fail(index, error.args[0])
                return

    def _on_delivery(self, index: int) -> Any:
        def note(error: Any, message: Any) -> None:
            if error is None:
                self._acknowledged.append(index)
            else:
                self._fail(index, error)

        return note

    def _fail(self, index: int, error: Any) -> None:
        code = error.code() if hasattr(error, "code") else None
        known = self._library.KafkaError
        too_large = code in (known.MSG_SIZE_TOO_LARGE, known.RECORD_LIST_TOO_LARGE)
        refused = code in (known.INVALID_RECORD, known.INVALID_TIMESTAMP)
        self.failure = self.failure or Failure(index, too_large, refused, RuntimeError(str(error)))

    def acknowledged(self) -> Sequence[int]:
        """Indices of messages that the broker has acknowledged since the last call."""
        self._producer.poll(0)
        indices, self._acknowledged = self._acknowledged, []
        return indices

    def close(self) -> None:
        """Stop; messages that are not acknowledged are given up."""
        self._producer.purge()
        self._producer.flush(1)


def _settings(connection: Connection) -> dict[str, Any]:
    """The connection as settings of librdkafka."""
    options = connection.client_options()
    settings = {
        "bootstrap.servers": ",".join(options["bootstrap_servers"]),
        "client.id": options["client_id"],
        "security.protocol": options["security_protocol"],
        "sasl.mechanisms": options.get("sasl_mechanism"),
        "sasl.username": options.get("sasl_plain_username"),
        "sasl.password": options.get("sasl_plain_password"),
        "ssl.ca.location": connection.ca_file,
        "ssl.certificate.location": connection.cert_file,
        "ssl.key.location": connection.key_file,
    }
    return {name: value for name, value in settings.items() if value is not None}
