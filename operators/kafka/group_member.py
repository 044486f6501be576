"""A member of a consumer group: reads its share of a topic, and commits what has left the graph."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError
from kafka.structs import MemberState, OffsetAndMetadata

from operators.kafka.client import BrokerError, connect, connection_fault, explain, partitions
from operators.kafka.connection import Connection
from operators.kafka.offset_ledger import OffsetLedger

COMMIT_S = 0.1  # between commits; after a kill, the work of this time is done again
BLOCKED_S = 60.0  # a worker that does not poll for this long loses its partitions to others
STUCK_S = 90.0  # longest wait to join: longer than BLOCKED_S, since joining waits for blocked members
DRAIN_S = 0.5  # before a partition is handed over, wait this long for its packets in flight
CLOSE_MS = 2000

log = logging.getLogger("posestream.kafka_source")


class GroupMember(ConsumerRebalanceListener):
    """Reads `topic` as a member of `group`. Only one thread may call methods other than `on_…`."""

    def __init__(
        self,
        connection: Connection,
        topic: str,
        group: str,
        *,
        start: str,
        session_s: float,
        ledger: OffsetLedger,
    ):
        self.connection, self.topic, self.group = connection, topic, group
        self._options: dict[str, Any] = {
            "group_id": group,
            "auto_offset_reset": start,
            "enable_auto_commit": False,
            "allow_auto_create_topics": False,
            # With this assignor a member keeps reading its other partitions while some are handed over.
            "partition_assignment_strategy": [CooperativeStickyAssignor],
            "session_timeout_ms": round(1000 * session_s),
            "heartbeat_interval_ms": round(1000 * session_s / 3),
            "max_poll_interval_ms": round(1000 * max(BLOCKED_S, session_s)),
            "reconnect_backoff_max_ms": 1000,
            "metrics_enabled": False,
        }
        self._ledger = ledger
        self._consumer: KafkaConsumer | None = None
        self._lost: set[TopicPartition] = set()
        self._lock = threading.Lock()
        self._committed: dict[TopicPartition, int] = {}
        self._commit_at = 0.0
        self._stable_at = 0.0  # when we last knew that we are in the group

    def join(self) -> None:
        """Connect, and subscribe to the topic.

        Raises:
            BrokerError: no broker can be used, or the topic does not exist.
        """
        admin = connect(KafkaAdminClient, self.connection)
        try:
            partitions(admin, self.connection, self.topic)
        finally:
            admin.close()
        self._subscribe()

    def _subscribe(self) -> None:
        consumer = connect(KafkaConsumer, self.connection, **self._options)
        consumer.subscribe([self.topic], listener=self)
        # Fetch the partitions before joining: without them, the first join assigns none and another follows.
        consumer.partitions_for_topic(self.topic)
        self._consumer, self._stable_at = consumer, time.monotonic()

    def poll(self, timeout_s: float, most: int) -> list[ConsumerRecord]:
        """The next messages, in order within each partition; an empty list if none came in time.

        It is empty, too, while no broker answers.

        Raises:
            BrokerError: an error that does not go away, such as a missing permission.
        """
        if self._consumer is None:
            try:
                self._subscribe()
            except BrokerError:
                time.sleep(timeout_s)
                return []
        assert self._consumer is not None
        try:
            found = self._consumer.poll(round(1000 * timeout_s), max_records=most)
        except KafkaError as error:
            if not error.retriable:
                raise BrokerError(explain(error, self.connection, topic=self.topic)) from error
            time.sleep(timeout_s)
            return []
        if found or self._consumer.group_metadata().state == MemberState.STABLE:
            self._stable_at = time.monotonic()
        elif time.monotonic() - self._stable_at > STUCK_S:
            self._rejoin()
        return [record for records in found.values() for record in records]

    def _rejoin(self) -> None:
        """Leave, so that the next `poll` joins again: this join hangs.

        kafka-python 3.0 loses a join that was triggered by new metadata if the poll that began it times out
        before the answer comes. It then waits for ever and sends no heartbeats.
        """
        self._stable_at = time.monotonic()
        if self.connection_fault() is None:
            log.warning("%s: no place in group %s for %.0f s; joining again", self.topic, self.group, STUCK_S)
            self.leave()

    def take_lost(self) -> set[TopicPartition]:
        """The partitions that we have lost to other members since the last call."""
        with self._lock:
            lost, self._lost = self._lost, set()
        return lost

    def connection_fault(self) -> str | None:
        """Why no broker can be used; None if one can. Takes a second at most."""
        return connection_fault(self.connection, 1.0)

    def commit(self) -> None:
        """Commit the finished offsets if `COMMIT_S` has passed since the last time; does not wait."""
        if (now := time.monotonic()) >= self._commit_at:
            self._commit_at = now + COMMIT_S
            self._commit_async(self._ledger.positions())

    def leave(self) -> None:
        """Commit the finished offsets and leave the group; takes up to 4 s if no broker answers."""
        if self._consumer is None:
            return
        try:
            if offsets := self._uncommitted(self._ledger.positions()):
                self._consumer.commit(offsets, timeout_ms=CLOSE_MS)
        except KafkaError as error:
            log.warning(
                "%s: the last offsets are not committed (%s); some messages will be read again",
                self.topic,
                error,
            )
        self._ledger.forget(self._consumer.assignment() or ())
        try:
            self._consumer.close(timeout_ms=CLOSE_MS)
        except KafkaError as error:
            log.debug("closing", exc_info=error)
        self._consumer = None

    def _commit_async(self, positions: dict[TopicPartition, int]) -> None:
        if (offsets := self._uncommitted(positions)) and self._consumer is not None:
            self._consumer.commit_async(offsets, callback=self._note_commit)

    def _uncommitted(self, positions: dict[TopicPartition, int]) -> dict[TopicPartition, OffsetAndMetadata]:
        return {
            partition: OffsetAndMetadata(offset, "", -1)
            for partition, offset in positions.items()
            if self._committed.get(partition) != offset
        }

    def _note_commit(self, offsets: dict[TopicPartition, OffsetAndMetadata], answer: object) -> None:
        if isinstance(answer, Exception):
            log.debug("%s: not committed: %s", self.topic, answer)  # the next commit repeats it
            return
        self._committed |= {partition: sent.offset for partition, sent in offsets.items()}

    # Called by kafka-python, mostly during `poll`, maybe from another thread

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Log the partitions that we read from now on."""
        log.info("%s: reads partitions %s", self.topic, _numbers(assigned))

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Commit finished offsets before the partitions go to another member, to avoid repeated work."""
        self._ledger.wait(revoked, DRAIN_S)
        positions = self._ledger.positions()
        self._commit_async({partition: at for partition, at in positions.items() if partition in revoked})
        self.on_partitions_lost(revoked)

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        """Forget partitions that belong to another member already."""
        log.info("%s: no longer reads partitions %s", self.topic, _numbers(lost))
        self._ledger.forget(lost)
        for partition in lost:
            self._committed.pop(partition, None)
        with self._lock:
            self._lost |= set(lost)


def _numbers(partitions: Collection[TopicPartition]) -> str:
    return ", ".join(str(partition.partition) for partition in sorted(partitions)) or "none"
