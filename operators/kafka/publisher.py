"""The thread that publishes the messages of a spool, and keeps trying whatever happens to the broker."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import lru_cache

import msgpack

from operators.kafka.client import BrokerError, connection_fault
from operators.kafka.connection import Connection
from operators.kafka.producer import Failure, Producer
from operators.records.messages import Message
from operators.spool.spool import Spool

PENDING_BYTES, PENDING_MESSAGES = 8 << 20, 20_000  # most that may be sent and not yet acknowledged
CHUNK_BYTES = 256 << 10  # read from the spool at once
POLL_S = 0.01  # how often to look for acknowledgements
AWAY_S = 5.0  # without an acknowledgement for this long, report the broker as away
STUCK_S = 60.0  # without an acknowledgement for this long although the broker answers, replace the producer
RETRY_S = 1.0

log = logging.getLogger("posestream.kafka_sink")


class Publisher:
    """Publishes the messages of `spool` in order; `make` returns a new producer or raises BrokerError.

    Calls `count(name, n)` with `published`, `outages`, `refused` (messages that the broker will never accept)
    and `reconnected` (a failed producer was replaced; its unacknowledged messages are sent again).
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
        self._pending_bytes = 0
        self._too_large: int | None = None  # size of the smallest message refused as too large
        self._progress = time.monotonic()  # of the last acknowledgement, or when sending began
        self._check_at = 0.0  # when to check the broker again
        self._away_since: float | None = None
        self._close_at: float | None = None  # deadline, once `close` was called
        self._delivered = 0
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"kafka-{topic}", daemon=True)

    def start(self, producer: Producer | None = None) -> None:
        """Start the thread, with this producer if the caller has made one already."""
        self._producer = producer
        self._thread.start()

    @property
    def delivered(self) -> int:
        """All messages below this index have arrived, or were refused and counted."""
        return self._delivered

    def wait_delivered(self, index: int, timeout_s: float) -> bool:
        """Wait until the message of this index has arrived; False after `timeout_s`."""
        with self._arrived:
            return self._arrived.wait_for(lambda: self._delivered > index, timeout_s)

    def close(self, flush_s: float) -> None:
        """Publish for `flush_s` at most, then stop; messages that are left stay in the spool."""
        self._close_at = time.monotonic() + flush_s
        self._spool.wake()
        self._thread.join()

    def _run(self) -> None:
        while not self._done():
            try:
                self._step()
            except Exception as error:  # the libraries raise all sorts of errors; publishing must continue
                log.debug("publishing to %s", self._topic, exc_info=error)
                self._report_away(f"kafka {self._connection.brokers}: {type(error).__name__}: {error}")
                self._close_producer()
                self._pause(RETRY_S)
        if self._producer is not None:
            self._producer.close()

    def _done(self) -> bool:
        if self._close_at is None:
            return False
        return (self._spool.drained and not self._pending) or time.monotonic() > self._close_at

    def _step(self) -> None:
        if self._producer is None and not self._connect():
            return
        producer = self._producer
        assert producer is not None  # _connect has made it
        self._acknowledge(producer.acknowledged())
        if producer.failure is not None:
            self._handle_failure(producer, producer.failure)
            return
        self._check_progress()
        if self._pending_bytes >= PENDING_BYTES or len(self._pending) >= PENDING_MESSAGES:
            self._pause(POLL_S)
            return
        chunk = self._spool.read(CHUNK_BYTES, POLL_S if self._pending or self._close_at else 0.5)
        if chunk:
            self._send(producer, chunk)

    def _send(self, producer: Producer, chunk: list[tuple[int, bytes]]) -> None:
        if not self._pending:
            self._progress = time.monotonic()
        messages = []
        for index, packed in chunk:
            self._pending[index] = packed
            self._pending_bytes += len(packed)
            if self._too_large is None or len(packed) < self._too_large:
                messages.append((index, unpack(packed)))
            else:
                self._refuse(index)
        producer.send(messages)

    def _acknowledge(self, indices: Iterable[int]) -> None:
        """Take acknowledged messages out of `_pending`, and out of the spool up to the first pending one."""
        n = 0
        for index in indices:
            packed = self._pending.pop(index, None)
            if packed is not None:
                self._pending_bytes -= len(packed)
                n += 1
        if n:
            self._count("published", n)
            self._progress = time.monotonic()
            self._report_back()
        delivered = next(iter(self._pending), self._spool.read_end)
        if delivered > self._delivered:
            self._spool.acknowledge(delivered - 1)
            with self._arrived:
                self._delivered = delivered
                self._arrived.notify_all()

    # Failures

    def _connect(self) -> bool:
        try:
            self._producer = self._make()
        except BrokerError as error:
            self._report_away(str(error))
            self._pause(RETRY_S)
            return False
        if self._pending:  # sent by the previous producer, and not acknowledged
            self._count("reconnected", 1)
            again, self._pending = self._pending, OrderedDict()
            self._pending_bytes = 0
            self._send(self._producer, list(again.items()))
        elif self._away_since is not None:
            self._report_back()
        return True

    def _handle_failure(self, producer: Producer, failure: Failure) -> None:
        """Close a failed producer; leave its message out if the broker will never accept it.

        The next producer sends all pending messages again.
        """
        self._close_producer()
        self._acknowledge(producer.acknowledged())
        size = len(self._pending.get(failure.at, b""))
        if failure.too_large and size:
            self._too_large = min(size, self._too_large or size)
        if failure.too_large or failure.refused:
            self._refuse(failure.at, failure.error)
        else:
            reason = f"{type(failure.error).__name__}: {failure.error}"
            self._report_away(f"kafka {self._connection.brokers}: {reason}")
            self._pause(RETRY_S)

    def _refuse(self, index: int, error: Exception | None = None) -> None:
        packed = self._pending.pop(index, None)
        if packed is None:
            return
        self._pending_bytes -= len(packed)
        self._count("refused", 1)
        if error is None:
            return
        if self._too_large is not None and len(packed) >= self._too_large:
            log.error(
                "%s accepts no messages of %d bytes; messages of this size or more are dropped and counted: "
                "raise max.message.bytes of the topic (message.max.bytes of the broker) and restart, or set "
                "`image` to jpeg or none, or a lower `quality`",
                self._topic, len(packed),
            )  # fmt: skip
        else:
            log.error("%s will never accept a message; it is dropped and counted: %s", self._topic, error)

    def _check_progress(self) -> None:
        """Without acknowledgements, find out why: report a broker that is away, replace a stuck producer."""
        now = time.monotonic()
        waited = now - self._progress if self._pending else 0.0
        if waited < AWAY_S or now < self._check_at:
            return
        self._check_at = now + STUCK_S / 4
        fault = connection_fault(self._connection)
        self._report_away(fault or f"kafka {self._connection.brokers} answers, but acknowledges nothing")
        if waited > STUCK_S and fault is None:
            self._progress = now
            self._close_producer()

    def _report_away(self, reason: str) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._count("outages", 1)
            log.error("%s; messages wait in the spool", reason)

    def _report_back(self) -> None:
        if self._away_since is not None:
            away_s = time.monotonic() - self._away_since
            self._away_since = None
            log.warning(
                "kafka %s is back after %.1f s; %d messages are sent now",
                self._connection.brokers, away_s, self._spool.waiting,
            )  # fmt: skip

    def _close_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    def _pause(self, seconds: float) -> None:
        left = seconds if self._close_at is None else min(seconds, self._close_at - time.monotonic())
        time.sleep(max(left, 0.0))


def pack(message: Message) -> bytes:
    """The bytes of a message in the spool."""
    return msgpack.packb((message.key, _pack_headers(tuple(message.headers)), message.value))


def unpack(packed: bytes) -> Message:
    """The message from the bytes that `pack` returned."""
    key, headers, value = msgpack.unpackb(packed)
    return Message(key, value, _unpack_headers(headers))


@lru_cache(maxsize=64)  # headers differ only by encoding and type of message
def _pack_headers(headers: tuple[tuple[str, bytes], ...]) -> bytes:
    return msgpack.packb(headers)


@lru_cache(maxsize=64)
def _unpack_headers(packed: bytes) -> list[tuple[str, bytes]]:
    return [(name, value) for name, value in msgpack.unpackb(packed)]
