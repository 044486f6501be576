"""The thread that publishes what lies in a spool, and goes on doing so whatever happens to the broker."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import lru_cache

import msgpack

from operators.kafka.connection import BrokerError, Connection, unusable
from operators.kafka.producers import Failure, Producer
from operators.records.messages import Message
from operators.spool.spool import Spool

AHEAD_BYTES, AHEAD_MESSAGES = 8 << 20, 20_000  # given to the producer and not acknowledged
CHUNK_BYTES = 256 << 10  # read from the spool at once
POLL_S = 0.01  # how often to look for acknowledgements
AWAY_S = 5.0  # no acknowledgement for so long: the broker is away
STUCK_S = 60.0  # … although it answers: a new producer is tried
RETRY_S = 1.0

log = logging.getLogger("posestream.kafka_sink")


class Publisher:
    """Publishes the messages of `spool`, in order; `make` gives a producer or raises BrokerError.

    `count` is told of `published`, `outages`, `refused` (the broker would never take them) and `reconnected`
    (a producer that had failed was replaced; what it had not got acknowledged is sent again).
    """

    def __init__(
        self,
        spool: Spool,
        connection: Connection,
        topic: str,
        make: Callable[[], Producer],
        count: Callable[[str, int], None],
    ):
        self._spool, self._connection, self._topic = spool, connection, topic
        self._make, self._count = make, count
        self._producer: Producer | None = None
        self._pending: OrderedDict[int, bytes] = OrderedDict()  # read from the spool, not acknowledged
        self._ahead_bytes = 0
        self._too_large: int | None = None  # the smallest that the broker has refused
        self._progress = time.monotonic()  # when something was last acknowledged, or nothing was waited for
        self._look_at = 0.0  # when to ask next what is wrong
        self._away_since: float | None = None
        self._closing: float | None = None  # until when to go on
        self._delivered = 0
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"kafka-{topic}", daemon=True)

    def start(self, producer: Producer | None = None) -> None:
        """Begin; with the first producer, where that was tried beforehand."""
        self._producer = producer
        self._thread.start()

    @property
    def delivered(self) -> int:
        """The index below which every message has arrived, or has been given up and counted."""
        return self._delivered

    def wait_delivered(self, index: int, timeout_s: float) -> bool:
        """Wait until the message of this index has arrived; False if it has not within the time."""
        with self._arrived:
            return self._arrived.wait_for(lambda: self._delivered > index, timeout_s)

    def close(self, flush_s: float) -> None:
        """Publish what is in the spool for so long, then stop; what is left stays there."""
        self._closing = time.monotonic() + flush_s
        self._spool.wake()
        self._thread.join()

    def _run(self) -> None:
        while not self._done():
            try:
                self._step()
            except Exception as error:  # whatever a library raises: messages must go on
                log.debug("publishing to %s", self._topic, exc_info=error)
                self._away(f"kafka {self._connection.brokers}: {type(error).__name__}: {error}")
                self._give_up_producer()
                self._pause(RETRY_S)
        if self._producer is not None:
            self._producer.close()

    def _done(self) -> bool:
        if self._closing is None:
            return False
        return (self._spool.drained and not self._pending) or time.monotonic() > self._closing

    def _step(self) -> None:
        if self._producer is None and not self._connect():
            return
        producer = self._producer
        assert producer is not None  # _connect has made it
        self._settle(producer.acknowledged())
        if producer.failure is not None:
            self._replace(producer, producer.failure)
            return
        self._watch()
        if self._ahead_bytes >= AHEAD_BYTES or len(self._pending) >= AHEAD_MESSAGES:
            self._pause(POLL_S)
            return
        found = self._spool.read(CHUNK_BYTES, POLL_S if self._pending or self._closing else 0.5)
        if found:
            self._send(producer, found)

    def _send(self, producer: Producer, found: list[tuple[int, bytes]]) -> None:
        if not self._pending:
            self._progress = time.monotonic()
        messages = []
        for index, packed in found:
            self._pending[index] = packed
            self._ahead_bytes += len(packed)
            if self._too_large is None or len(packed) < self._too_large:
                messages.append((index, unpack(packed)))
            else:
                self._refuse(index)
        producer.send(messages)

    def _settle(self, indices: Iterable[int]) -> None:
        """These have arrived."""
        n = 0
        for index in indices:
            packed = self._pending.pop(index, None)
            if packed is not None:
                self._ahead_bytes -= len(packed)
                n += 1
        if n:
            self._count("published", n)
            self._progress = time.monotonic()
            self._back()
        delivered = next(iter(self._pending), self._spool.read_end)
        if delivered > self._delivered:
            self._spool.acknowledge(delivered - 1)
            with self._arrived:
                self._delivered = delivered
                self._arrived.notify_all()

    # What can go wrong

    def _connect(self) -> bool:
        try:
            self._producer = self._make()
        except BrokerError as error:
            self._away(str(error))
            self._pause(RETRY_S)
            return False
        if self._pending:  # what the producer before this one has not got acknowledged
            self._count("reconnected", 1)
            again, self._pending = self._pending, OrderedDict()
            self._ahead_bytes = 0
            self._send(self._producer, list(again.items()))
        elif self._away_since is not None:
            self._back()
        return True

    def _replace(self, producer: Producer, failure: Failure) -> None:
        """A message was not taken: leave it out, if it never will be, and send what follows it again."""
        self._give_up_producer()
        self._settle(producer.acknowledged())
        size = len(self._pending.get(failure.at, b""))
        if failure.too_large and size:
            self._too_large = min(size, self._too_large or size)
        if failure.too_large or failure.refused:
            self._refuse(failure.at, failure.error)
        else:
            self._away(f"kafka {self._connection.brokers}: {type(failure.error).__name__}: {failure.error}")
            self._pause(RETRY_S)

    def _refuse(self, index: int, error: Exception | None = None) -> None:
        packed = self._pending.pop(index, None)
        if packed is None:
            return
        self._ahead_bytes -= len(packed)
        self._count("refused", 1)
        if error is None:
            return
        if self._too_large is not None and len(packed) >= self._too_large:
            log.error(
                "%s takes no messages of %d bytes; those of this size and more are left out and counted: "
                "raise max.message.bytes of the topic (message.max.bytes of the broker) and restart, or set "
                "`image` to jpeg or none, or a lower `quality`",
                self._topic, len(packed),
            )  # fmt: skip
        else:
            log.error("%s refuses a message for ever; it is left out and counted: %s", self._topic, error)

    def _watch(self) -> None:
        """Notice a broker that takes nothing, and a producer that has got stuck."""
        now = time.monotonic()
        waited = now - self._progress if self._pending else 0.0
        if waited < AWAY_S or now < self._look_at:
            return
        self._look_at = now + STUCK_S / 4
        reason = unusable(self._connection)
        self._away(reason or f"kafka {self._connection.brokers} answers, but acknowledges nothing")
        if waited > STUCK_S and reason is None:
            self._progress = now
            self._give_up_producer()

    def _away(self, reason: str) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._count("outages", 1)
            log.error("%s; messages wait in the spool", reason)

    def _back(self) -> None:
        if self._away_since is not None:
            away_s = time.monotonic() - self._away_since
            self._away_since = None
            log.warning(
                "kafka %s is back after %.1f s; %d messages follow",
                self._connection.brokers, away_s, self._spool.waiting,
            )  # fmt: skip

    def _give_up_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    def _pause(self, seconds: float) -> None:
        left = seconds if self._closing is None else min(seconds, self._closing - time.monotonic())
        time.sleep(max(left, 0.0))


def pack(message: Message) -> bytes:
    """A message as it lies in the spool."""
    return msgpack.packb((message.key, _pack_headers(tuple(message.headers)), message.value))


def unpack(packed: bytes) -> Message:
    """The message that `pack` has packed."""
    key, headers, value = msgpack.unpackb(packed)
    return Message(key, value, _unpack_headers(headers))


@lru_cache(maxsize=64)  # there are as many as kinds of messages
def _pack_headers(headers: tuple[tuple[str, bytes], ...]) -> bytes:
    return msgpack.packb(headers)


@lru_cache(maxsize=64)
def _unpack_headers(packed: bytes) -> list[tuple[str, bytes]]:
    return [(name, value) for name, value in msgpack.unpackb(packed)]
