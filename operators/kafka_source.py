"""Read packets, or bare JPEG and PNG frames, from a Kafka topic."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from pydantic import Field

from operators.kafka.addresses import parse_kafka_uri
from operators.kafka.client import BrokerError
from operators.kafka.connection import (
    BrokersOption,
    CaFileOption,
    CertFileOption,
    Connection,
    KeyFileOption,
    MechanismOption,
    PasswordFileOption,
    SecurityOption,
    UsernameOption,
)
from operators.kafka.consumed_item import item_of, partition_of
from operators.kafka.dead_letters import DeadLetters
from operators.kafka.group_member import GroupMember
from operators.kafka.offset_ledger import OffsetLedger
from operators.records.messages import MessageError
from pipeline.operator import Ports, RunInfo, Source
from pipeline.packet import End, Event, Packet

Provides = Annotated[list[str], Field(description="the packet fields that the topic's messages carry")]
Session = Annotated[
    float,
    Field(gt=0, le=1800, description="seconds without a heartbeat after which another worker takes over"),
]
Start = Annotated[
    Literal["earliest", "latest"],
    Field(description="where to begin if the group has not read this topic before"),
]

POLL_MAX = 200  # messages in one poll
POLL_TIMEOUT_S = 0.2
POLL_S = 0.5  # poll this often even if messages are left: Kafka drops members that do not poll
QUIET_S = 2.0  # after this long without messages, check whether a broker answers
DRAIN_S, DRAIN_STUCK_S = 5.0, 0.5  # longest wait at the end for packets in flight: in all, without progress

log = logging.getLogger("posestream.kafka_source")


@dataclass
class _Stream:
    """A stream whose partition we read."""

    partition: TopicPartition
    run: str
    epoch: int
    seq: int = -1  # of the last packet
    frames: int = 0
    ended: bool = False


class KafkaSource(Source):
    """Read a topic as a member of a consumer group; `uri` is kafka://HOST:PORT/TOPIC?group=NAME.

    provides  the fields that the option `provides` lists

    Reads the messages of `kafka_sink` (`docs/schema.md`), several streams at once. A message that is just a
    JPEG or PNG is a frame, too: its stream is the key, else the topic; its `seq` is the offset.

    An offset is committed once its packet, and all before it in its partition, have left the graph. A message
    that is read twice, after a crash for example, has the same (stream, run, seq); if the same worker reads
    both, it drops the second. A worker that takes over a stream in the middle emits the event `moved` first
    and begins a new epoch.

    Counts `duplicates`; `poison` (unreadable messages, copied to the topic `dead_letter`); `not_set_aside`
    (unreadable messages that could not be copied); `swallowed` (packets that never came out of the graph).
    """

    def __init__(
        self,
        provides: Provides = ["image"],  # noqa: B006 - options are never changed
        brokers: BrokersOption = None,
        group: Annotated[str | None, Field(description="consumer group; default: the graph's name")] = None,
        start: Start = "earliest",
        dead_letter: Annotated[
            str | None, Field(description="topic for unreadable messages; default: TOPIC.dead")
        ] = None,
        session_s: Session = 10.0,
        security: SecurityOption = None,
        sasl_mechanism: MechanismOption = None,
        username: UsernameOption = None,
        password_file: PasswordFileOption = None,
        ca_file: CaFileOption = None,
        cert_file: CertFileOption = None,
        key_file: KeyFileOption = None,
    ):
        self.group, self.start, self.dead_letter, self.session_s = group, start, dead_letter, session_s
        self.connection_options = {
            "brokers": brokers, "security": security, "sasl_mechanism": sasl_mechanism, "username": username,
            "password_file": password_file, "ca_file": ca_file, "cert_file": cert_file, "key_file": key_file,
        }  # fmt: skip
        self._stopping = threading.Event()
        self._ledger = OffsetLedger()
        self._streams: dict[str, _Stream] = {}
        self._first: dict[TopicPartition, int] = {}  # offset of the first message that we read
        self._lost_at: float | None = None  # when the broker went away

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """Declare the fields that `provides` lists, since only the writer of the topic knows them.

        Raises:
            OptionError: options contradict each other.
        """
        Connection.of(**options)
        return Ports(frozenset(), frozenset(options.get("provides", ["image"])))

    def open(self, run: RunInfo) -> None:
        """Keep the graph's name, and whether the run is live: then a missing broker is waited for."""
        self.run = run

    def check(self, uri: str) -> None:
        """Check the address; whether a broker answers shows when reading begins.

        Raises:
            SourceError: not a kafka:// URI.
        """
        parse_kafka_uri(uri)

    def read(self, stream: str, uri: str) -> Iterator[Packet | Event | End]:
        """Yield the items of the topic until stopped. Waits for a broker that goes away while reading.

        Raises:
            SourceError: not a kafka:// URI; or reading is not allowed; or, in a run that is not live, no
                broker answers or the topic does not exist.
        """
        parts = parse_kafka_uri(uri)
        options = self.connection_options | ({"brokers": parts.brokers} if parts.brokers else {})
        connection = Connection.of(**options)
        self._dead = DeadLetters(connection, self.dead_letter or f"{parts.topic}.dead")
        group = parts.group or self.group or self.run.graph
        member = GroupMember(
            connection, parts.topic, group, start=self.start, session_s=self.session_s, ledger=self._ledger
        )
        self._name = stream
        try:
            yield from self._join(member)
            yield from self._read_topic(member)
        finally:
            self._drain()
            self._dead.close()
            member.leave()

    def stop(self) -> None:
        """Make `read` end soon."""
        self._stopping.set()

    def finished(self, packet: Packet) -> None:
        """Allow to commit this packet and all earlier ones of its stream."""
        self._ledger.finish(packet)

    def _join(self, member: GroupMember) -> Iterator[Event]:
        while not self._stopping.is_set():
            try:
                member.join()
            except BrokerError as error:
                if not self.run.live:
                    raise
                yield from self._report_lost(str(error))
                self._stopping.wait(QUIET_S)
                continue
            yield from self._report_back()
            return

    def _read_topic(self, member: GroupMember) -> Iterator[Packet | Event | End]:
        pending: deque[ConsumerRecord] = deque()
        polled = heard = time.monotonic()
        while not self._stopping.is_set():
            if not pending or time.monotonic() - polled > POLL_S:
                records = member.poll(0 if pending else POLL_TIMEOUT_S, 1 if pending else POLL_MAX)
                polled = time.monotonic()
                if lost := member.take_lost():
                    pending = deque(record for record in pending if partition_of(record) not in lost)
                    yield from self._end_streams(lost)
                pending.extend(records)
                if pending:
                    heard = polled
                    yield from self._report_back()
                elif polled - heard > QUIET_S:
                    heard = polled
                    fault = member.connection_fault()
                    yield from self._report_back() if fault is None else self._report_lost(fault)
            member.commit()
            if pending:
                yield from self._items(pending.popleft())

    def _items(self, record: ConsumerRecord) -> Iterator[Packet | Event | End]:
        """The items that one message makes: itself, and what must be emitted before it."""
        partition = partition_of(record)
        self._first.setdefault(partition, record.offset)
        try:
            item = item_of(record)
        except MessageError as error:
            self._set_aside(record, str(error))
            return
        stream = self._streams.get(item.stream)
        if isinstance(item, Packet):
            yield from self._packet(record, stream, item)
            return
        self._ledger.hand_out(partition, record.offset)()
        if isinstance(item, Event):
            yield item
        elif stream is None or (stream.run == item.run and not stream.ended):
            self._streams.setdefault(item.stream, _Stream(partition, item.run, 0)).ended = True
            yield Event(item.stream, "ended", time.time_ns(), {"frames": item.frames}, run=item.run)
            yield item

    def _packet(
        self, record: ConsumerRecord, stream: _Stream | None, packet: Packet
    ) -> Iterator[Packet | Event | End]:
        partition = partition_of(record)
        if stream and stream.run == packet.run:
            if packet.seq <= stream.seq:
                self.count("duplicates")
                self._ledger.hand_out(partition, record.offset)()
                return
        else:
            if stream and not stream.ended:  # its run was killed, and the packet belongs to the next run
                yield End(packet.stream, stream.frames)
            moved = packet.seq > 0
            # Offsets only grow, so the first one of ours makes an epoch that no earlier worker has used.
            stream = _Stream(partition, packet.run, self._first[partition] + 1 if moved else 0)
            self._streams[packet.stream] = stream
            if moved:
                yield Event(packet.stream, "moved", time.time_ns(), resets=True, run=packet.run)
        stream.seq, stream.ended = packet.seq, False
        stream.frames += 1
        self._ledger.hand_out(partition, record.offset, packet)
        yield packet.replace(epoch=packet.epoch + stream.epoch, arrived_ns=time.time_ns())

    def _set_aside(self, record: ConsumerRecord, reason: str) -> None:
        self.count("poison")
        finish = self._ledger.hand_out(partition_of(record), record.offset)

        def done(copied: bool) -> None:
            finish()
            if not copied:
                self.count("not_set_aside")

        self._dead.put(record, reason, done)

    def _end_streams(self, lost: Collection[TopicPartition]) -> Iterator[End]:
        """End the streams of partitions that another worker reads now."""
        for partition in lost:
            self._first.pop(partition, None)
        for name, stream in [(n, s) for n, s in self._streams.items() if s.partition in lost]:
            del self._streams[name]
            if not stream.ended:
                yield End(name, stream.frames)

    def _drain(self) -> None:
        """Wait for the packets in flight, as long as some still arrive."""
        deadline = time.monotonic() + DRAIN_S
        before = None
        while before != (before := self._ledger.in_flight()) and time.monotonic() < deadline:
            if self._ledger.wait(timeout_s=DRAIN_STUCK_S):
                break
        if self._ledger.swallowed:
            self.count("swallowed", self._ledger.swallowed)

    def _report_lost(self, reason: str) -> Iterator[Event]:
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            log.warning("%s: lost: %s; trying again", self._name, reason)
            yield from self._event_for_all("lost", {"reason": reason})

    def _report_back(self) -> Iterator[Event]:
        if self._lost_at is not None:
            away_s = round(time.monotonic() - self._lost_at, 3)
            self._lost_at = None
            log.warning("%s: back after %.1f s", self._name, away_s)
            yield from self._event_for_all("back", {"away_s": away_s})

    def _event_for_all(self, kind: str, details: dict[str, Any]) -> Iterator[Event]:
        """The event for every stream that goes on, or for the source itself if there is none yet."""
        reading = [name for name, stream in self._streams.items() if not stream.ended]
        for name in reading or [self._name]:
            yield Event(name, kind, time.time_ns(), details)
