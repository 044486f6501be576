"""Messages that cannot be read, set aside in a topic of their own with the reason."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError, TopicAlreadyExistsError

from operators.kafka.connection import BrokerError, Connection, connect, explain

log = logging.getLogger("posestream.kafka_source")


class DeadLetters:
    """Sends messages as they are to `topic`, with the headers `reason` and `from` (topic, partition, offset).

    The topic is made with the first message, if it is not there.
    """

    def __init__(self, connection: Connection, topic: str):
        self.connection, self.topic = connection, topic
        self._producer: KafkaProducer | None = None
        self._told = threading.Event()

    def put(self, record: ConsumerRecord, reason: str, settled: Callable[[bool], None]) -> None:
        """Set a message aside; does not wait for the broker, except with its first.

        `settled` is told, maybe by another thread, whether that has worked. Else the message is only in its
        own topic, for as long as that keeps it.
        """

        def failed(error: Exception) -> None:
            self._tell(error)
            settled(False)

        came_from = f"{record.topic}/{record.partition}/{record.offset}"
        headers = [*record.headers, ("reason", reason.encode()), ("from", came_from.encode())]
        try:
            if self._producer is None:
                self._producer = self._open()
            sent = self._producer.send(self.topic, value=record.value, key=record.key, headers=headers)
            sent.add_callback(lambda _: settled(True))
            sent.add_errback(failed)
        except (KafkaError, BrokerError) as error:
            failed(error)

    def close(self) -> None:
        """Send what is still here, for a few seconds at most."""
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

    def _tell(self, error: Exception) -> None:
        if not self._told.is_set():
            self._told.set()
            ours = isinstance(error, BrokerError)
            said = str(error) if ours else explain(error, self.connection, topic=self.topic)
            log.error("cannot set messages aside in %s: %s", self.topic, said)
