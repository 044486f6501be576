"""Publish what a graph finds to a Kafka topic, by way of a spool on disk: nothing waits, nothing is lost."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter, deque
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from engines.home import cache_home
from operators.kafka.client import (
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
from operators.kafka.producers import Compression, Library, Publishing, check_compression, make_producer
from operators.kafka.publisher import Publisher, pack
from operators.records.messages import Encoding, ImageCodec, encode
from operators.spool.spool import Fsync, Spool
from pipeline.errors import OptionError
from pipeline.operator import Operator, Ports, RunInfo
from pipeline.packet import End, Event, Packet

HELD_MAX = 1000  # packets whose arrival is waited for
UNDELIVERED = "not delivered in time"

log = logging.getLogger("posestream.kafka_sink")


class KafkaSink(Operator):
    """Publish a message a frame, and one for every event and end of a stream; packets pass on unchanged.

    The key is the stream, so a stream stays in one partition and in order. Messages go to the spool first,
    from where a thread of its own publishes them as soon as a broker takes them. Delivery is at least once:
    what a killed process had sent and not seen acknowledged comes again, with the same stream, run and seq.

    With `wait: delivered`, packets pass on (without their picture) only when the broker has their messages;
    at most 1000 are waited for. A packet whose message is not delivered `flush_s` after the end of its stream
    is dropped and counted; the message stays in the spool.
    """

    sink = True
    per_stream = True
    drop_reasons = (UNDELIVERED,)
    batch_max = 32

    def __init__(
        self,
        topic: Annotated[
            str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$", description="made if the broker does so")
        ],
        brokers: BrokersOption = None,
        encoding: Encoding = "msgpack",
        image: Annotated[ImageCodec, Field(description="the picture in the message")] = "none",
        quality: Annotated[int, Field(ge=1, le=100, description="of JPEG")] = 90,
        wait: Annotated[
            Literal["spooled", "delivered"],
            Field(description="when packets pass on; delivered: behind Kafka sources"),
        ] = "spooled",
        compression: Compression = "none",
        linger_ms: Annotated[float, Field(ge=0, description="how long to gather messages for a batch")] = 5.0,
        batch_bytes: Annotated[int, Field(ge=1, description="how much to gather")] = 65536,
        spool_mb: Annotated[
            int, Field(ge=1, description="when it is full, the oldest messages are dropped")
        ] = 1024,
        spool_dir: Annotated[
            str | None, Field(description="else a folder of the topic's in the cache")
        ] = None,
        fsync: Annotated[
            Fsync, Field(description="what outlives a power cut; a kill -9 loses nothing")
        ] = "never",
        flush_s: Annotated[
            float, Field(ge=0, description="how long to publish at the end; the rest stays")
        ] = 10.0,
        client: Annotated[Library, Field(description="auto: confluent-kafka if it is installed")] = "auto",
        security: SecurityOption = None,
        sasl_mechanism: MechanismOption = None,
        username: UsernameOption = None,
        password_file: PasswordFileOption = None,
        ca_file: CaFileOption = None,
        cert_file: CertFileOption = None,
        key_file: KeyFileOption = None,
    ):
        self.publishing = Publishing(topic, compression, linger_ms, batch_bytes)
        self.connection = Connection.of(
            brokers=brokers, security=security, sasl_mechanism=sasl_mechanism, username=username,
            password_file=password_file, ca_file=ca_file, cert_file=cert_file, key_file=key_file,
        )  # fmt: skip
        self.encoding, self.image, self.quality = encoding, image, quality
        self.holds_packets = wait == "delivered"
        self.wait, self.flush_s, self.client, self.fsync = wait, flush_s, client, fsync
        self.spool_bytes = spool_mb << 20
        self.spool_dir = spool_dir
        self.frames: Counter[str] = Counter()  # by stream
        self.runs: dict[str, str] = {}  # stream: the run that has captured it, where that is another one
        self.ended: dict[str, End] = {}  # streams of other runs that are over, not only for this worker
        self.held: deque[tuple[int, Packet]] = deque()
        self.counting = threading.Lock()

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """Refuse options that contradict each other; pictures need an image."""
        if options.get("encoding") == "json" and options.get("image", "none") != "none":
            raise OptionError(
                "image", "JSON messages carry no picture; set encoding: msgpack, or image: none"
            )
        Connection.of(**options)
        check_compression(options.get("client", "auto"), options.get("compression", "none"))
        ports = super().ports(options)
        return ports._replace(needs=frozenset({"image"})) if options.get("image", "none") != "none" else ports

    def open(self, run: RunInfo) -> None:
        """Open the spool and begin to publish; live runs do not wait for the broker.

        Raises:
            BrokerError: a run over files whose broker cannot be used.
            OptionError: there is no password, or a file cannot be read.
        """
        self.run = run.id
        make = partial(make_producer, self.client, self.connection, self.publishing)
        self.connection.client_options()
        producer = None if run.live else make()
        topic = self.publishing.topic
        root = Path(self.spool_dir).expanduser() if self.spool_dir else default_spool(self.connection, topic)
        self.spool = Spool(root, self.spool_bytes, fsync=self.fsync, count=self._count)
        self.publisher = Publisher(self.spool, self.connection, topic, make, self._count)
        self.publisher.start(producer)

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Put a message a packet into the spool.

        Raises:
            ValueError: a field of the instances, or the picture, cannot be sent.
        """
        last = self._spool(packets)
        for packet in packets:
            self.frames[packet.stream] += 1
            self.runs[packet.stream] = packet.run
        if self.wait == "spooled":
            return packets
        first = last + 1 - len(packets)
        self.held.extend((first + i, packet.replace(picture=None)) for i, packet in enumerate(packets))
        if len(self.held) > HELD_MAX:
            self.publisher.wait_delivered(self.held[-HELD_MAX - 1][0], self.flush_s)
        return self._arrived()

    def event(self, event: Event) -> None:
        """Publish an event; `ended` as the end that it announces."""
        if event.kind == "ended":
            self.ended[event.stream] = End(event.stream, event.details.get("frames", 0), event.run)
        else:
            self._spool([event])

    def end_stream(self, stream: str) -> list[Packet]:
        """Publish the end of a stream; with `wait: delivered`, wait for it as long as `flush_s`."""
        frames, run = self.frames.pop(stream, 0), self.runs.pop(stream, "")
        end = self.ended.pop(stream, None if run else End(stream, frames))
        if end is not None:  # else only this worker's part of another run's stream is over
            self._spool([end])
        mine = [index for index, packet in self.held if packet.stream == stream]
        if mine:
            self.publisher.wait_delivered(mine[-1], self.flush_s)
        arrived = self._arrived()
        late = [entry for entry in self.held if entry[1].stream == stream]
        for entry in late:  # their messages stay in the spool
            self.drop(entry[1], UNDELIVERED)
            self.held.remove(entry)
        return arrived

    def close(self) -> None:
        """Publish what is left as long as `flush_s`; the rest stays in the spool for the next run."""
        self.publisher.close(self.flush_s)
        if left := self.spool.waiting:
            log.warning(
                "%d messages for %s are in the spool %s; the next run with this topic sends them",
                left, self.publishing.topic, self.spool.folder,
            )  # fmt: skip
        self.spool.close()

    def _spool(self, items: list[Packet] | list[Event] | list[End]) -> int:
        """The index of the last item's message."""
        return self.spool.append(
            [pack(encode(item, self.run, self.encoding, self.image, self.quality)) for item in items]
        )

    def _arrived(self) -> list[Packet]:
        """The held packets whose messages the broker has."""
        arrived = []
        while self.held and self.held[0][0] < self.publisher.delivered:
            arrived.append(self.held.popleft()[1])
        return arrived

    def _count(self, event: str, n: int) -> None:
        with self.counting:  # three threads do
            self.count(event, n)


def default_spool(connection: Connection, topic: str) -> Path:
    """The folder of a topic's spools: topics of one name on other brokers have others."""
    brokers = ",".join(sorted(connection.brokers.split(",")))
    return cache_home() / "spool" / f"{topic}-{hashlib.sha256(brokers.encode()).hexdigest()[:8]}"
