"""Read results back from a Kafka topic: what `kafka_sink` has published, as arrays."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError

from operators.kafka.addresses import KafkaUri, parse_kafka_uri
from operators.kafka.client import connect, explain, partitions
from operators.kafka.connection import Connection
from operators.reading.recording import Recording, gather
from operators.records.messages import MessageError, decode
from operators.records.record import header
from pipeline.errors import SourceError
from pipeline.packet import Event, Packet

STUCK_S = 15.0  # nothing came for so long, although the end is not reached
FORM = "expected kafka://HOST:PORT/TOPIC?stream=NAME&run=ID&until=TIME"

log = logging.getLogger("posestream.read")


@dataclass(frozen=True)
class _Wanted:
    """Which messages of a topic."""

    place: KafkaUri
    stream: str | None = None
    run: str | None = None
    until_ms: int | None = None  # Kafka's time of a message, exclusive

    @classmethod
    def of(cls, uri: str) -> _Wanted:
        """Read `kafka://HOST:PORT/TOPIC?stream=NAME&run=ID&until=TIME`."""
        parts = urlsplit(uri)
        asked = parse_qs(parts.query, keep_blank_values=True)
        ours = {name: asked.pop(name)[0] or None for name in ("stream", "run", "until") if name in asked}
        place = parse_kafka_uri(parts._replace(query=urlencode(asked, doseq=True)).geturl())
        until = ours.get("until")
        return cls(
            place, ours.get("stream"), ours.get("run"), None if until is None else _time_ms(until, uri)
        )


def read_kafka(uri: str) -> Recording:
    """One stream of a topic, from its beginning to its present end, sorted by `seq`.

    `uri` is kafka://HOST:PORT/TOPIC, with `?stream=NAME` where there are several; `run=ID` takes another run
    than the newest, `until=TIME` (ISO 8601, or seconds since 1970) ends sooner. A frame that was published
    twice is taken once. What cannot be read as a frame is left out, and a warning tells how much.

    Raises:
        SourceError: no broker, no such topic, no such stream or run, or several streams.
    """
    wanted = _Wanted.of(uri)
    found = _recordings(wanted)
    if len(found) > 1:
        raise SourceError(
            f"{uri}: found several streams, {', '.join(sorted(found))}; choose one with ?stream=NAME, "
            "or take all with read_folder"
        )
    return next(iter(found.values()))


def read_topic(uri: str) -> dict[str, Recording]:
    """All streams of a topic by name, each as `read_kafka` gives it.

    Raises:
        SourceError: no broker, no such topic, or nothing in it.
    """
    return _recordings(_Wanted.of(uri))


def _recordings(wanted: _Wanted) -> dict[str, Recording]:
    topic = wanted.place.topic
    frames: dict[str, dict[str, dict[int, Packet]]] = {}  # stream: run: seq: packet
    events: dict[tuple[str, str], dict[tuple[str, int], Event]] = {}  # stream, run: kind, time: event
    left_out: Counter[str] = Counter()
    for record in _records(wanted):
        if wanted.stream is not None and record.key != wanted.stream.encode():
            continue
        try:
            item = decode(record.value, record.headers, pictures=False)
        except MessageError as error:
            left_out[str(error)] += 1
            continue
        if isinstance(item, Packet):
            frames.setdefault(item.stream, {}).setdefault(item.run, {}).setdefault(item.seq, item)
        elif isinstance(item, Event):
            events.setdefault((item.stream, item.run), {}).setdefault((item.kind, item.at_ns), item)
    if left_out:
        reason, _ = left_out.most_common(1)[0]
        log.warning("%s: left out %d messages, most of them: %s", topic, left_out.total(), reason)
    if not frames:
        missing = "" if wanted.stream is None else f" of stream {wanted.stream}"
        raise SourceError(f"topic {topic} holds no frames{missing}; choose another, or publish to it first")
    chosen = {stream: run for stream, runs in frames.items() if (run := _run(runs, wanted.run)) is not None}
    if not chosen:
        known = sorted({run for runs in frames.values() for run in runs})
        raise SourceError(f"topic {topic} holds no run {wanted.run}; there are: {', '.join(known)}")
    return {
        stream: _recording(topic, stream, run, frames[stream][run], events.get((stream, run), {}).values())
        for stream, run in chosen.items()
    }


def _run(runs: dict[str, dict[int, Packet]], wanted: str | None) -> str | None:
    """The run to take: the one asked for if it is there, or the one that captured last."""
    if wanted is not None:
        return wanted if wanted in runs else None
    return max(runs, key=lambda run: max(packet.captured_ns for packet in runs[run].values()))


def _recording(
    topic: str, stream: str, run: str, frames: dict[int, Packet], events: Iterable[Event]
) -> Recording:
    packets = [frames[seq] for seq in sorted(frames)]
    skeletons = {p.instances.skeleton for p in packets if p.instances and p.instances.skeleton}
    try:
        return gather(stream, header(run, stream, sorted(skeletons)), [*packets, *events])
    except ValueError as error:
        raise SourceError(f"topic {topic}, stream {stream}: {error}") from None


def _records(wanted: _Wanted) -> Iterator[ConsumerRecord]:
    """All messages of the topic that are there now, each partition in its order."""
    place = wanted.place
    connection = Connection.of(brokers=place.brokers)
    admin = connect(KafkaAdminClient, connection)
    try:
        places = [
            TopicPartition(place.topic, number) for number in partitions(admin, connection, place.topic)
        ]
    finally:
        admin.close()
    consumer = connect(
        KafkaConsumer,
        connection,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        metrics_enabled=False,
    )
    try:
        yield from _to_the_end(consumer, places, _ends(consumer, places, wanted.until_ms))
    except KafkaError as error:
        raise SourceError(explain(error, connection, topic=place.topic)) from error
    finally:
        consumer.close(timeout_ms=1000)


def _ends(consumer: Any, places: list[TopicPartition], until_ms: int | None) -> dict[TopicPartition, int]:
    """The offset at which to stop in each partition that holds anything before it."""
    ends = consumer.end_offsets(places)
    if until_ms is not None:
        later = consumer.offsets_for_times(dict.fromkeys(places, until_ms))
        ends = {place: found.offset if (found := later.get(place)) else end for place, end in ends.items()}
    begins = consumer.beginning_offsets(places)
    return {place: end for place, end in ends.items() if end > begins[place]}


def _to_the_end(
    consumer: Any, places: list[TopicPartition], ends: dict[TopicPartition, int]
) -> Iterator[ConsumerRecord]:
    consumer.assign(list(ends) or places)
    consumer.seek_to_beginning(*(list(ends) or places))
    heard = time.monotonic()
    while ends:
        found = consumer.poll(500, max_records=2000)
        for place, records in found.items():
            heard = time.monotonic()
            yield from (record for record in records if record.offset < ends.get(place, 0))
        # The last offsets may hold nothing (a compacted topic, the marks of transactions).
        for place in [p for p, end in ends.items() if consumer.position(p, timeout_ms=1000) >= end]:
            del ends[place]
            consumer.pause(place)
        if time.monotonic() - heard > STUCK_S:
            raise SourceError(
                f"kafka: no answer for {STUCK_S:g} s while {len(ends)} partitions are not read to their end; "
                "see whether all brokers run"
            )


def _time_ms(text: str, uri: str) -> int:
    try:
        return round(float(text) * 1000)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise SourceError(
            f"{uri}: until={text} is no time; {FORM}, as in until=2026-01-31T12:00:00Z"
        ) from None
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
