"""Publish results to a Kafka topic, through a spool on disk: frames never wait for the broker."""

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
from operators.kafka.choose_producer import Library, check_compression, make_producer
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
from operators.kafka.producer import Compression, Publishing
from operators.kafka.publisher import Publisher, pack
from operators.records.messages import Encoding, ImageCodec, encode
from operators.spool.spool import Fsync, Spool
from pipeline.errors import OptionError
from pipeline.operator import Operator, Ports, RunInfo
from pipeline.packet import End, Event, Packet

UNDELIVERED_MAX = 1000  # packets that may wait for their delivery
UNDELIVERED = "not delivered in time"

log = logging.getLogger("posestream.kafka_sink")


class KafkaSink(Operator):
    """Publish a message for each frame, event and end of a stream; packets pass on unchanged.

    The key is the stream, so a stream stays in one partition and in order. Messages go to the spool first;
    a thread publishes them from there as soon as a broker accepts them. Delivery is at least once: after a
    kill, messages that were sent but not yet acknowledged are sent again, with the same stream, run and seq.

    With `wait: delivered`, packets pass on (without their picture) only once the broker has their messages.
    At most 1000 packets may wait for that; then `process` waits, `flush_s` at most. A packet whose message is
    not delivered `flush_s` after its stream ended is dropped and counted; the message stays in the spool.
    """

    sink = True
    per_stream = True
    drop_reasons = (UNDELIVERED,)
    batch_max = 32

    def __init__(
        self,
        topic: Annotated[
            str,
            Field(
                pattern=r"^[A-Za-z0-9._-]{1,249}$",
                description="must exist, unless the broker creates topics by itself",
            ),
        ],
        brokers: BrokersOption = None,
        encoding: Encoding = "msgpack",
        image: Annotated[ImageCodec, Field(description="the picture in the message")] = "none",
        quality: Annotated[int, Field(ge=1, le=100, description="of JPEG")] = 90,
        wait: Annotated[
            Literal["spooled", "delivered"],
            Field(description="when packets pass on; set delivered if the source is a Kafka topic"),
        ] = "spooled",
        compression: Compression = "none",
        linger_ms: Annotated[float, Field(ge=0, description="how long to gather messages for a batch")] = 5.0,
        batch_bytes: Annotated[int, Field(ge=1, description="size at which a batch is sent")] = 65536,
        spool_mb: Annotated[
            int, Field(ge=1, description="size of the spool; when full, the oldest messages are dropped")
        ] = 1024,
        spool_dir: Annotated[
            str | None, Field(description="folder of the spool; default: one for each topic, in the cache")
        ] = None,
        fsync: Annotated[
            Fsync,
            Field(
                description="when to force messages to the disk: what survives a power cut (a kill -9 "
                "loses nothing in any case)"
            ),
        ] = "never",
        flush_s: Annotated[
            float, Field(ge=0, description="how long to keep publishing at the end; the rest stays spooled")
        ] = 10.0,
        client: Annotated[
            Library, Field(description="auto: confluent-kafka if installed, else kafka-python")
        ] = "auto",
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
        self.runs: dict[str, str] = {}  # by stream: the run that captured it, "" for this run
        self.ended: dict[str, End] = {}  # streams of other runs that have ended for good
        self.undelivered: deque[tuple[int, Packet]] = deque()  # with the index of their message
        self.count_lock = threading.Lock()

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """Packets need an image if `image` asks for the picture.

        Raises:
            OptionError: options contradict each other.
        """
        if options.get("encoding") == "json" and options.get("image", "none") != "none":
            raise OptionError(
                "image", "JSON messages carry no picture; set encoding: msgpack, or image: none"
            )
        Connection.of(**options)
        check_compression(options.get("client", "auto"), options.get("compression", "none"))
        ports = super().ports(options)
        return ports._replace(needs=frozenset({"image"})) if options.get("image", "none") != "none" else ports

    def open(self, run: RunInfo) -> None:
        """Open the spool and start publishing; a live run does not wait for the broker.

        Raises:
            BrokerError: the run is not live, and the broker or the topic cannot be used.
            OptionError: the password is missing, or a file cannot be read.
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
        """Put one message for each packet into the spool.

        Raises:
            ValueError: a field of the instances, or the picture, cannot be encoded.
        """
        last = self._spool(packets)
        for packet in packets:
            self.frames[packet.stream] += 1
            self.runs[packet.stream] = packet.run
        if self.wait == "spooled":
            return packets
        first = last + 1 - len(packets)
        self.undelivered.extend((first + i, packet.replace(picture=None)) for i, packet in enumerate(packets))
        if len(self.undelivered) > UNDELIVERED_MAX:
            self.publisher.wait_delivered(self.undelivered[-UNDELIVERED_MAX - 1][0], self.flush_s)
        return self._take_delivered()

    def event(self, event: Event) -> None:
        """Publish an event. `ended` is not published itself: `end_stream` publishes the end it announces."""
        if event.kind == "ended":
            self.ended[event.stream] = End(event.stream, event.details.get("frames", 0), event.run)
        else:
            self._spool([event])

    def end_stream(self, stream: str) -> list[Packet]:
        """Publish the end of a stream; with `wait: delivered`, wait for its packets, `flush_s` at most."""
        frames, run = self.frames.pop(stream, 0), self.runs.pop(stream, "")
        end = self.ended.pop(stream, None if run else End(stream, frames))
        if end is not None:  # None: the stream of another run goes on, in another worker
            self._spool([end])
        indices = [index for index, packet in self.undelivered if packet.stream == stream]
        if indices:
            self.publisher.wait_delivered(indices[-1], self.flush_s)
        delivered = self._take_delivered()
        late = [entry for entry in self.undelivered if entry[1].stream == stream]
        for entry in late:  # their messages stay in the spool
            self.drop(entry[1], UNDELIVERED)
            self.undelivered.remove(entry)
        return delivered

    def close(self) -> None:
        """Keep publishing for `flush_s` at most; the rest stays in the spool for the next run."""
        self.publisher.close(self.flush_s)
        if left := self.spool.waiting:
            log.warning(
                "%d messages for %s are in the spool %s; the next run with this topic sends them",
                left, self.publishing.topic, self.spool.folder,
            )  # fmt: skip
        self.spool.close()

    def _spool(self, items: list[Packet] | list[Event] | list[End]) -> int:
        """Put the items into the spool; returns the index of the last message."""
        return self.spool.append(
            [pack(encode(item, self.run, self.encoding, self.image, self.quality)) for item in items]
        )

    def _take_delivered(self) -> list[Packet]:
        """The packets whose messages have arrived, in order; they no longer wait."""
        delivered = []
        while self.undelivered and self.undelivered[0][0] < self.publisher.delivered:
            delivered.append(self.undelivered.popleft()[1])
        return delivered

    def _count(self, name: str, n: int) -> None:
        with self.count_lock:  # called by the stage, the publisher and the spool's thread
            self.count(name, n)


def default_spool(connection: Connection, topic: str) -> Path:
    """The spool folder of a topic; it differs between brokers, since topic names may repeat."""
    brokers = ",".join(sorted(connection.brokers.split(",")))
    return cache_home() / "spool" / f"{topic}-{hashlib.sha256(brokers.encode()).hexdigest()[:8]}"
