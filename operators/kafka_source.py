"""The operator `kafka_source`: packets, or JPEG and PNG frames, from a Kafka topic."""

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

from operators.kafka.connection import (
    BrokerError,
    BrokersOption,
    CaFileOption,
    CertFileOption,
    Connection,
    KeyFileOption,
    MechanismOption,
    PasswordFileOption,
    SecurityOption,
    UsernameOption,
    parse_kafka_uri,
)
from operators.kafka.dead_letters import DeadLetters
from operators.kafka.group_member import Member
from operators.kafka.offset_ledger import Ledger
from operators.records.messages import MessageError, decode, decode_picture
from pipeline.operator import Ports, RunInfo, Source
from pipeline.packet import End, Event, Packet

Provides = Annotated[
    list[str], Field(description="what the topic's packets carry, as names of packet fields")
]
Session = Annotated[
    float, Field(gt=0, le=1800, description="after this many seconds without a sign of life others take over")
]
Start = Annotated[
    Literal["earliest", "latest"],
    Field(description="where a group begins that has not read the topic before"),
]

AT_ONCE = 200  # messages a poll
WAIT_S = 0.2
POLL_S = 0.5  # how often to poll although messages are at hand: that is how Kafka learns that we live
QUIET_S = 2.0  # nothing came for so long: is a broker there at all?
SETTLE_S, STUCK_S = 5.0, 0.5  # wait for what is out at the end: at most, and without any progress
BARE = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG"}

log = logging.getLogger("posestream.kafka_source")


@dataclass
class _Stream:
    """What is known of a stream while we read its partition."""

    place: TopicPartition
    run: str
    epoch: int
    seq: int = -1  # the last
    frames: int = 0
    ended: bool = False


class KafkaSource(Source):
    """Read a topic as one of a consumer group; `uri` is kafka://HOST:PORT/TOPIC?group=NAME.

    provides  what `provides` says; image where messages carry pictures

    Reads what `kafka_sink` writes (`docs/schema.md`), several streams at once, and messages that are a JPEG
    or PNG and nothing else: their stream is the key, else the topic; their number the offset.

    An offset is committed when its packet and all before it in its partition have left the graph. What is
    read again (after a crash, say) has the same (stream, run, seq); one worker leaves such duplicates out.
    Where a stream is taken over in mid-stream, an event `moved` comes first and its epoch is a new one.

    Counts `duplicates`, `poison` (messages that cannot be read, set aside in `dead_letter`), `not_set_aside`
    (of these), `swallowed` (packets that left no trace in the graph).
    """

    def __init__(
        self,
        provides: Provides = ["image"],  # noqa: B006 - options are never changed
        brokers: BrokersOption = None,
        group: Annotated[str | None, Field(description="consumer group; else the graph's name")] = None,
        start: Start = "earliest",
        dead_letter: Annotated[
            str | None, Field(description="topic for what cannot be read; else TOPIC.dead")
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
        self._ledger = Ledger()
        self._streams: dict[str, _Stream] = {}
        self._first: dict[TopicPartition, int] = {}  # offset of the first message since we have a partition
        self._lost_at: float | None = None

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """What the topic carries, only its writer knows. Refuse options that contradict each other."""
        Connection.of(**options)
        return Ports(frozenset(), frozenset(options.get("provides", ["image"])))

    def open(self, run: RunInfo) -> None:
        """Learn the graph's name, and whether to wait for a broker that is not there."""
        self.run = run

    def read(self, stream: str, uri: str) -> Iterator[Packet | Event | End]:
        """Yield what is in the topic until stopped.

        Raises:
            SourceError: not a kafka:// URI; or reading is not allowed; or, unless live, no broker or no such
                topic when reading begins. A broker that goes away later is waited for.
        """
        found = parse_kafka_uri(uri)
        options = self.connection_options | ({"brokers": found.brokers} if found.brokers else {})
        connection = Connection.of(**options)
        self._dead = DeadLetters(connection, self.dead_letter or f"{found.topic}.dead")
        group = found.group or self.group or self.run.graph
        member = Member(
            connection, found.topic, group, start=self.start, session_s=self.session_s, ledger=self._ledger
        )
        self._name = stream
        try:
            yield from self._join(member)
            yield from self._messages(member)
        finally:
            self._settle()
            self._dead.close()
            member.leave()

    def stop(self) -> None:
        """End `read` soon."""
        self._stopping.set()

    def finished(self, packet: Packet) -> None:
        """The packet, and what came before it of its stream, may be committed."""
        self._ledger.finish(packet)

    def _join(self, member: Member) -> Iterator[Event]:
        while not self._stopping.is_set():
            try:
                member.join()
            except BrokerError as error:
                if not self.run.live:
                    raise
                yield from self._lost(str(error))
                self._stopping.wait(QUIET_S)
                continue
            yield from self._back()
            return

    def _messages(self, member: Member) -> Iterator[Packet | Event | End]:
        pending: deque[ConsumerRecord] = deque()
        polled = heard = time.monotonic()
        while not self._stopping.is_set():
            if not pending or time.monotonic() - polled > POLL_S:
                records = member.poll(0 if pending else WAIT_S, 1 if pending else AT_ONCE)
                polled = time.monotonic()
                if gone := member.given_up():
                    pending = deque(record for record in pending if _place(record) not in gone)
                    yield from self._give_up(gone)
                pending.extend(records)
                if pending:
                    heard = polled
                    yield from self._back()
                elif polled - heard > QUIET_S:
                    heard = polled
                    reason = member.away()
                    yield from self._back() if reason is None else self._lost(reason)
            member.commit()
            if pending:
                yield from self._items(pending.popleft())

    def _items(self, record: ConsumerRecord) -> Iterator[Packet | Event | End]:
        place = _place(record)
        self._first.setdefault(place, record.offset)
        try:
            item = _item(record)
        except MessageError as error:
            self._set_aside(record, str(error))
            return
        stream = self._streams.get(item.stream)
        if isinstance(item, Packet):
            yield from self._packet(record, stream, item)
            return
        self._ledger.give(place, record.offset)()
        if isinstance(item, Event):
            yield item
        elif stream is None or (stream.run == item.run and not stream.ended):
            self._streams.setdefault(item.stream, _Stream(place, item.run, 0)).ended = True
            yield Event(item.stream, "ended", time.time_ns(), {"frames": item.frames}, run=item.run)
            yield item

    def _packet(
        self, record: ConsumerRecord, stream: _Stream | None, packet: Packet
    ) -> Iterator[Packet | Event | End]:
        place = _place(record)
        if stream and stream.run == packet.run:
            if packet.seq <= stream.seq:
                self.count("duplicates")
                self._ledger.give(place, record.offset)()
                return
        else:
            if stream and not stream.ended:  # its run was killed, and this is the next
                yield End(packet.stream, stream.frames)
            moved = packet.seq > 0
            stream = _Stream(place, packet.run, self._first[place] + 1 if moved else 0)
            self._streams[packet.stream] = stream
            if moved:
                yield Event(packet.stream, "moved", time.time_ns(), resets=True, run=packet.run)
        stream.seq, stream.ended = packet.seq, False
        stream.frames += 1
        self._ledger.give(place, record.offset, packet)
        yield packet.replace(epoch=packet.epoch + stream.epoch, arrived_ns=time.time_ns())

    def _set_aside(self, record: ConsumerRecord, reason: str) -> None:
        self.count("poison")
        done = self._ledger.give(_place(record), record.offset)

        def settled(worked: bool) -> None:
            done()
            if not worked:
                self.count("not_set_aside")

        self._dead.put(record, reason, settled)

    def _give_up(self, gone: Collection[TopicPartition]) -> Iterator[End]:
        """Others read these partitions now; the streams in them are over for us."""
        for place in gone:
            self._first.pop(place, None)
        for name, stream in [(n, s) for n, s in self._streams.items() if s.place in gone]:
            del self._streams[name]
            if not stream.ended:
                yield End(name, stream.frames)

    def _settle(self) -> None:
        """Wait for what is out, as long as it goes on."""
        deadline = time.monotonic() + SETTLE_S
        out = None
        while out != (out := self._ledger.out()) and time.monotonic() < deadline:
            if self._ledger.wait(timeout_s=STUCK_S):
                break
        if self._ledger.swallowed:
            self.count("swallowed", self._ledger.swallowed)

    def _lost(self, reason: str) -> Iterator[Event]:
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            log.warning("%s: lost: %s; trying again", self._name, reason)
            yield from self._tell("lost", {"reason": reason})

    def _back(self) -> Iterator[Event]:
        if self._lost_at is not None:
            away_s = round(time.monotonic() - self._lost_at, 3)
            self._lost_at = None
            log.warning("%s: back after %.1f s", self._name, away_s)
            yield from self._tell("back", {"away_s": away_s})

    def _tell(self, kind: str, details: dict[str, Any]) -> Iterator[Event]:
        reading = [name for name, stream in self._streams.items() if not stream.ended]
        for name in reading or [self._name]:
            yield Event(name, kind, time.time_ns(), details)


def _place(record: ConsumerRecord) -> TopicPartition:
    return TopicPartition(record.topic, record.partition)


def _item(record: ConsumerRecord) -> Packet | Event | End:
    """What a message holds.

    Raises:
        MessageError: nothing that we can read.
    """
    value = record.value or b""
    if any(name == "schema" for name, _ in record.headers) or not value.startswith(tuple(BARE)):
        return decode(value, record.headers)
    picture = decode_picture(value)
    try:
        stream = record.key.decode() if record.key else record.topic
    except UnicodeDecodeError:
        raise MessageError(f"expected the stream's name as key, found {record.key!r:.60}") from None
    if not record.key and record.partition:
        stream = f"{stream}-{record.partition}"  # each partition has an order of its own
    height, width = picture.shape[:2]
    captured_ns = record.timestamp * 1_000_000 if record.timestamp > 0 else time.time_ns()
    run = f"{record.topic}-{record.partition}"
    return Packet(stream, record.offset, captured_ns, captured_ns, (width, height), picture, run=run)
