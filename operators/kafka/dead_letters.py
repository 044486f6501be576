"""Messages that cannot be read are copied to a topic of their own (dead letters), with the reason."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError, TopicAlreadyExistsError

from operators.kafka.client import BrokerError, connect, explain
from operators.kafka.connection import Connection

log = logging.getLogger("posestream.kafka_source")


class DeadLetters:
    """Copies messages unchanged to `topic`, with the headers `reason` and `from` (topic, partition, offset).

    The topic is created with the first message if it does not exist.
    """

    def __init__(self, connection: Connection, topic: str):
        self.connection, self.topic = connection, topic
        self._producer: KafkaProducer | None = None
        self._logged = threading.Event()

    def put(self, record: ConsumerRecord, reason: str, done: Callable[[bool], None]) -> None:
        """Copy a message; waits for the broker only with the first one.

        `done` is called with True once the broker has the copy, else with False, maybe from another thread.
        After False the message exists only in its own topic, as long as that keeps it.
        """

        def failed(error: Exception) -> None:
            self._log_once(error)
            done(False)

        came_from = f"{record.topic}/{record.partition}/{record.offset}"
        headers = [*record.headers, ("reason", reason.encode()), ("from", came_from.encode())]
        try:
            if self._producer is None:
                self._producer = self._open()
            sent = self._producer.send(self.topic, value=record.value, key=record.key, headers=headers)
            sent.add_callback(lambda _: done(True))
            sent.add_errback(failed)
        except (KafkaError, BrokerError) as error:
            failed(error)

    def close(self) -> None:
        """Send what is still queued, for 3 s at most."""
        if self._producer is not None:
            self._producer.close(timeout=3)
            self._producer = None

    def _open(self) -> KafkaProducer:
        admin = connect(KafkaAdminClient, self.connection)
        try:
            admin.create_topics([NewTopic(self.topic, 1, -1)])
        except TopicAlreadyExistsError:
            pass
        finally:
            admin.close()
        return connect(KafkaProducer, self.connection, acks="all", max_block_ms=5000)

    def _log_once(self, error: Exception) -> None:
        if not self._logged.is_set():
            self._logged.set()
            explained = isinstance(error, BrokerError)
            reason = str(error) if explained else explain(error, self.connection, topic=self.topic)
            log.error("cannot copy unreadable messages to %s: %s", self.topic, reason)
