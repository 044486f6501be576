"""A member of a consumer group: reads its share of a topic, and commits what is done with."""

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

from operators.kafka.connection import BrokerError, Connection, connect, explain, partitions, unusable
from operators.kafka.offset_ledger import Ledger

COMMIT_S = 0.1  # what is done in this time is done over if the process is killed
BLOCKED_S = 60.0  # a graph that takes no packet for so long is given up, and its partitions go to others
STUCK_S = 90.0  # joining waits for members that are blocked, no longer than for them
DRAIN_S = 0.5  # how long a partition that goes to another member waits for what is out of it
CLOSE_MS = 2000

log = logging.getLogger("posestream.kafka_source")


class Member(ConsumerRebalanceListener):
    """Reads `topic` as one of `group`. All but the `on_…` methods are for one thread."""

    def __init__(
        self, connection: Connection, topic: str, group: str, *, start: str, session_s: float, ledger: Ledger
    ):
        self.connection, self.topic, self.group = connection, topic, group
        self._options: dict[str, Any] = {
            "group_id": group,
            "auto_offset_reset": start,
            "enable_auto_commit": False,
            "allow_auto_create_topics": False,
            # Who keeps a partition goes on with it while others move.
            "partition_assignment_strategy": [CooperativeStickyAssignor],
            "session_timeout_ms": round(1000 * session_s),
            "heartbeat_interval_ms": round(1000 * session_s / 3),
            "max_poll_interval_ms": round(1000 * max(BLOCKED_S, session_s)),
            "reconnect_backoff_max_ms": 1000,
            "metrics_enabled": False,
        }
        self._ledger = ledger
        self._consumer: KafkaConsumer | None = None
        self._gone: set[TopicPartition] = set()
        self._lock = threading.Lock()
        self._committed: dict[TopicPartition, int] = {}
        self._commit_at = 0.0
        self._stable_at = 0.0  # when we last were sure to be in the group

    def join(self) -> None:
        """Connect, and ask for a share of the topic.

        Raises:
            BrokerError: no broker serves us, or there is no such topic.
        """
        admin = connect(KafkaAdminClient, self.connection)
        try:
            partitions(admin, self.connection, self.topic)
        finally:
            admin.close()
        self._begin()

    def _begin(self) -> None:
        consumer = connect(KafkaConsumer, self.connection, **self._options)
        consumer.subscribe([self.topic], listener=self)
        # Known before the first join, or that assigns nothing and a second one follows at once.
        consumer.partitions_for_topic(self.topic)
        self._consumer, self._stable_at = consumer, time.monotonic()

    def poll(self, timeout_s: float, most: int) -> list[ConsumerRecord]:
        """The next messages, of each partition in order; none when none came, or no broker is there.

        Raises:
            BrokerError: reading can never work: not allowed, say.
        """
        if self._consumer is None:
            try:
                self._begin()
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
            self._join_anew()
        return [record for records in found.values() for record in records]

    def _join_anew(self) -> None:
        """Joining takes longer than it can.

        kafka-python 3.0 loses a join that it has begun because of new metadata, if the poll that began it
        times out before the answer: it then waits for ever, and sends no heartbeats.
        """
        self._stable_at = time.monotonic()
        if self.away() is None:
            log.warning("%s: no place in group %s for %.0f s; joining anew", self.topic, self.group, STUCK_S)
            self.leave()

    def given_up(self) -> set[TopicPartition]:
        """The partitions that have gone to others since this was last asked."""
        with self._lock:
            gone, self._gone = self._gone, set()
        return gone

    def away(self) -> str | None:
        """Why no broker can be spoken to; None if one can. Takes a second at most."""
        return unusable(self.connection, 1.0)

    def commit(self) -> None:
        """Commit what is done, every now and then; does not wait."""
        if (now := time.monotonic()) >= self._commit_at:
            self._commit_at = now + COMMIT_S
            self._send(self._ledger.positions())

    def leave(self) -> None:
        """Commit what is done and give the partitions back, at once if a broker is there."""
        if self._consumer is None:
            return
        try:
            if offsets := self._new(self._ledger.positions()):
                self._consumer.commit(offsets, timeout_ms=CLOSE_MS)
        except KafkaError as error:
            log.warning(
                "%s: the last offsets are not committed (%s); some will be read again", self.topic, error
            )
        self._ledger.forget(self._consumer.assignment() or ())
        try:
            self._consumer.close(timeout_ms=CLOSE_MS)
        except KafkaError as error:
            log.debug("closing", exc_info=error)
        self._consumer = None

    def _send(self, positions: dict[TopicPartition, int]) -> None:
        if (offsets := self._new(positions)) and self._consumer is not None:
            self._consumer.commit_async(offsets, callback=self._note)

    def _new(self, positions: dict[TopicPartition, int]) -> dict[TopicPartition, OffsetAndMetadata]:
        return {
            place: OffsetAndMetadata(offset, "", -1)
            for place, offset in positions.items()
            if self._committed.get(place) != offset
        }

    def _note(self, offsets: dict[TopicPartition, OffsetAndMetadata], answer: object) -> None:
        if isinstance(answer, Exception):
            log.debug("%s: not committed: %s", self.topic, answer)  # sent again with the next
            return
        self._committed |= {place: found.offset for place, found in offsets.items()}

    # By the client's own thread, while we poll as a rule

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """They are ours; nothing to do before their first message."""
        log.info("%s: reads partitions %s", self.topic, _numbers(assigned))

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """They go to another member: commit what is done of them, so that it need not be done again."""
        self._ledger.wait(revoked, DRAIN_S)
        self._send({place: at for place, at in self._ledger.positions().items() if place in revoked})
        self.on_partitions_lost(revoked)

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        """They already are another's."""
        log.info("%s: no longer reads partitions %s", self.topic, _numbers(lost))
        self._ledger.forget(lost)
        for place in lost:
            self._committed.pop(place, None)
        with self._lock:
            self._gone |= set(lost)


def _numbers(places: Collection[TopicPartition]) -> str:
    return ", ".join(str(place.partition) for place in sorted(places)) or "none"
