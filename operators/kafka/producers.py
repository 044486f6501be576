"""Two libraries that publish to Kafka, behind one face: kafka-python, and confluent-kafka if it is installed.

Both publish with `acks=all` and idempotence: what a library sends again after a lost answer, the broker
knows.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from operators.kafka.connection import (
    BrokerError,
    Connection,
    connect,
    explain,
    missing_topic,
    partitions,
    unusable,
)
from operators.records.messages import Message
from pipeline.errors import OptionError

Library = Literal["auto", "kafka-python", "confluent"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
CONNECT_S = 5.0
LARGEST_BYTES = 64 << 20  # of a message; the broker's own limit is what counts
FOR_EVER_MS = 2**31 - 1


class Publishing(NamedTuple):
    """How messages are put together."""

    topic: str
    compression: Compression = "none"
    linger_ms: float = 5.0
    batch_bytes: int = 65536


class Failure(NamedTuple):
    """The first message that was not taken; nothing after it is sure."""

    at: int  # the index
    too_large: bool  # for the broker
    refused: bool  # the broker would never take it
    error: Exception


class Producer(Protocol):
    """Publishes messages in order; each has an index of the caller's."""

    failure: Failure | None  # then this producer is of no use any more

    def send(self, messages: Sequence[tuple[int, Message]]) -> None:
        """Take messages to publish; returns at once."""
        ...

    def acknowledged(self) -> Sequence[int]:
        """Indices of messages that the broker has acknowledged since the last call."""
        ...

    def close(self) -> None:
        """Give up what is not acknowledged."""
        ...


def make_producer(library: Library, connection: Connection, how: Publishing) -> Producer:
    """A producer that has reached the broker and knows the topic.

    Raises:
        BrokerError: one line that says why not.
        OptionError: a password or a file is missing.
    """
    return (Confluent if _chosen(library) == "confluent" else KafkaPython)(connection, how)


def check_compression(library: Library, compression: Compression) -> None:
    """See that messages can be compressed so.

    Raises:
        OptionError: kafka-python needs a package for it that is not installed.
    """
    if compression in ("none", "gzip") or _chosen(library) == "confluent":
        return
    from kafka import codec

    if not getattr(codec, f"has_{compression}")():
        packages = {"snappy": "python-snappy", "lz4": "lz4", "zstd": "zstandard"}
        raise OptionError(
            "compression",
            f"{compression} needs a package with kafka-python; run: pip install {packages[compression]} "
            "(or confluent-kafka, which has it), or set gzip",
        )


def _chosen(library: Library) -> Library:
    if library != "auto":
        return library
    return "confluent" if importlib.util.find_spec("confluent_kafka") else "kafka-python"


class KafkaPython:
    """kafka-python: no compiled code of its own, so it shares the interpreter lock with all other stages."""

    def __init__(self, connection: Connection, how: Publishing):
        from kafka import KafkaProducer
        from kafka.errors import KafkaError
        from kafka.partitioner import murmur2

        self._topic, self._hash = how.topic, murmur2
        self.failure: Failure | None = None
        self._sent: deque[tuple[int, Any]] = deque()  # index, future
        self._hashes: dict[bytes, int] = {}
        self._producer = connect(
            KafkaProducer,
            connection,
            timeout_s=CONNECT_S,
            acks="all",
            enable_idempotence=True,
            delivery_timeout_ms=FOR_EVER_MS,  # it is the spool that waits
            max_block_ms=round(CONNECT_S * 1000),
            reconnect_backoff_max_ms=1000,
            max_request_size=LARGEST_BYTES,
            compression_type=None if how.compression == "none" else how.compression,
            linger_ms=how.linger_ms,
            batch_size=how.batch_bytes,
            metrics_enabled=False,
        )
        try:
            self._producer.partitions_for(how.topic)
        except KafkaError as error:
            self.close()
            _refuse_missing(connection, how.topic)
            raise BrokerError(explain(error, connection, topic=how.topic)) from error

    def send(self, messages: Sequence[tuple[int, Message]]) -> None:
        """Take messages to publish; returns at once."""
        # Hashing the key anew for every message would be a tenth of the work.
        partitions = sorted(self._producer.partitions_for(self._topic))
        for index, (key, value, headers) in messages:
            if key not in self._hashes:
                self._hashes[key] = self._hash(key) & 0x7FFFFFFF
            partition = partitions[self._hashes[key] % len(partitions)]
            try:
                future = self._producer.send(self._topic, value, key, headers, partition)
            except Exception as error:
                self._fail(index, error)
                return
            future.add_errback(self._fail_later, index)
            self._sent.append((index, future))

    def _fail_later(self, index: int, error: Exception) -> None:
        self._fail(index, error)

    def _fail(self, index: int, error: Exception) -> None:
        from kafka import errors

        too_large = isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError)
        refused = isinstance(error, errors.InvalidRecordError | errors.InvalidTimestampError)
        # All later ones fail with the same error, once the first has ended the producer.
        self.failure = self.failure or Failure(index, too_large, refused, error)

    def acknowledged(self) -> Sequence[int]:
        """Indices of messages that the broker has acknowledged since the last call."""
        found = []
        while self._sent and self._sent[0][1].is_done:
            index, future = self._sent.popleft()
            if future.succeeded():
                found.append(index)
        return found

    def close(self) -> None:
        """Give up what is not acknowledged."""
        from kafka.errors import KafkaError

        try:
            self._producer.close(timeout=0.1 if self._sent else 1)
        except KafkaError:  # its `close` gives up where it should force
            self._producer._sender.force_close()


def _refuse_missing(connection: Connection, topic: str) -> None:
    """Raise if the reason is that there is no such topic: the library only times out."""
    from kafka import KafkaAdminClient

    admin = connect(KafkaAdminClient, connection, timeout_s=CONNECT_S)
    try:
        partitions(admin, connection, topic)
    finally:
        admin.close()


class Confluent:
    """confluent-kafka: librdkafka's own threads do the work."""

    def __init__(self, connection: Connection, how: Publishing):
        try:
            import confluent_kafka
        except ImportError:
            raise BrokerError(
                'client: confluent needs confluent-kafka; run: pip install "posestream[confluent]", '
                "or set client: kafka-python"
            ) from None
        self._library, self._topic = confluent_kafka, how.topic
        self.failure: Failure | None = None
        self._acknowledged: list[int] = []
        self._refused_login = False
        if reason := unusable(connection, CONNECT_S):
            raise BrokerError(reason)
        self._producer = confluent_kafka.Producer(
            {
                **_settings(connection),
                "acks": "all",
                "enable.idempotence": True,
                "message.timeout.ms": 0,  # it is the spool that waits
                "reconnect.backoff.max.ms": 1000,
                "message.max.bytes": LARGEST_BYTES,
                "compression.type": how.compression,
                "linger.ms": how.linger_ms,
                "batch.size": how.batch_bytes,
                "partitioner": "murmur2_random",  # as Kafka's own and kafka-python
                "error_cb": self._note_error,
                "logger": logging.getLogger("kafka.confluent"),
            }
        )
        self._find_topic(connection, how.topic)

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
                cause = errors.SaslAuthenticationFailedError() if self._refused_login else error
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
            time.sleep(0.2)  # a broker that makes topics takes its time

    def _note_error(self, error: Any) -> None:
        self._refused_login |= error.code() == self._library.KafkaError._AUTHENTICATION

    def send(self, messages: Sequence[tuple[int, Message]]) -> None:
        """Take messages to publish; returns at once."""
        for index, message in messages:
            headers: Any = message.headers
            note = self._delivered(index)
            try:
                self._producer.produce(
                    self._topic, message.value, message.key, headers=headers, on_delivery=note
                )
            except (self._library.KafkaException, BufferError) as error:
                self._fail(index, error.args[0])
                return

    def _delivered(self, index: int) -> Any:
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
        found, self._acknowledged = self._acknowledged, []
        return found

    def close(self) -> None:
        """Give up what is not acknowledged."""
        self._producer.purge()
        self._producer.flush(1)


def _settings(connection: Connection) -> dict[str, Any]:
    """The connection in librdkafka's words."""
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
