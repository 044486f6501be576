"""A producer of kafka-python: pure Python, so it competes with all stages for the interpreter lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from operators.kafka.client import BrokerError, connect, explain, partitions
from operators.kafka.connection import Connection
from operators.kafka.producer import CONNECT_S, LARGEST_BYTES, Failure, Publishing
from operators.records.messages import Message

NEVER_MS = 2**31 - 1


class KafkaPythonProducer:
    """A `Producer` of kafka-python.

    Raises:
        BrokerError: the broker or the topic cannot be used.
        OptionError: a password or a file is missing.
    """

    def __init__(self, connection: Connection, publishing: Publishing):
        from kafka import KafkaProducer
        from kafka.errors import KafkaError
        from kafka.partitioner import murmur2

        self._topic, self._hash = publishing.topic, murmur2
        self.failure: Failure | None = None
        self._sent: deque[tuple[int, Any]] = deque()  # index, future
        self._hashes: dict[bytes, int] = {}
        self._producer = connect(
            KafkaProducer,
            connection,
            timeout_s=CONNECT_S,
            acks="all",
            enable_idempotence=True,
            delivery_timeout_ms=NEVER_MS,  # the spool keeps messages until they arrive
            max_block_ms=round(CONNECT_S * 1000),
            reconnect_backoff_max_ms=1000,
            max_request_size=LARGEST_BYTES,
            compression_type=None if publishing.compression == "none" else publishing.compression,
            linger_ms=publishing.linger_ms,
            batch_size=publishing.batch_bytes,
            metrics_enabled=False,
        )
        try:
            self._producer.partitions_for(publishing.topic)
        except KafkaError as error:
            self.close()
            _check_topic(connection, publishing.topic)
            raise BrokerError(explain(error, connection, topic=publishing.topic)) from error

    def send(self, messages: Sequence[tuple[int, Message]]) -> None:
        """Queue messages for publishing; returns at once."""
        # Choose the partition here, with cached hashes: hashing every key again takes a tenth of the time.
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
        # Keep the first: it ends the producer, and all later messages then fail with the same error.
        self.failure = self.failure or Failure(index, too_large, refused, error)

    def acknowledged(self) -> Sequence[int]:
        """Indices of messages that the broker has acknowledged since the last call."""
        indices = []
        while self._sent and self._sent[0][1].is_done:
            index, future = self._sent.popleft()
            if future.succeeded():
                indices.append(index)
        return indices

    def close(self) -> None:
        """Stop; messages that are not acknowledged are given up."""
        from kafka.errors import KafkaError

        try:
            self._producer.close(timeout=0.1 if self._sent else 1)
        except KafkaError:  # `close` raises on its time-out instead of forcing the end
            self._producer._sender.force_close()


def _check_topic(connection: Connection, topic: str) -> None:
    """Raise BrokerError if the topic does not exist; kafka-python itself only times out."""
    from kafka import KafkaAdminClient

    admin = connect(KafkaAdminClient, connection, timeout_s=CONNECT_S)
    try:
        partitions(admin, connection, topic)
    finally:
        admin.close()
