"""Read the results that `kafka_sink` has published to a topic back as arrays."""

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

STUCK_S = 15.0  # without messages for this long before the end, give up
FORM = "expected kafka://HOST:PORT/TOPIC?stream=NAME&run=ID&until=TIME"

log = logging.getLogger("posestream.read")


@dataclass(frozen=True)
class _Query:
    """The parts of a URI: which messages of which topic to read."""

    topic: KafkaUri
    stream: str | None = None
    run: str | None = None
    until_ms: int | None = None  # exclusive; Kafka's time of a message

    @classmethod
    def parse(cls, uri: str) -> _Query:
        """The query in `kafka://HOST:PORT/TOPIC?stream=NAME&run=ID&until=TIME`.

        Raises:
            SourceError: the URI has another form.
        """
        parts = urlsplit(uri)
        rest = parse_qs(parts.query, keep_blank_values=True)
        ours = {name: rest.pop(name)[0] or None for name in ("stream", "run", "until") if name in rest}
        topic = parse_kafka_uri(parts._replace(query=urlencode(rest, doseq=True)).geturl())
        until = ours.get("until")
        until_ms = None if until is None else _time_ms(until, uri)
        return cls(topic, ours.get("stream"), ours.get("run"), until_ms)


def read_stream(uri: str) -> Recording:
    """One stream of a topic, from the topic's beginning to its present end, sorted by `seq`.

    `uri` is kafka://HOST:PORT/TOPIC, with `?stream=NAME` if it holds several streams, `run=ID` for another
    run than the newest, `until=TIME` (ISO 8601, or seconds since 1970) to stop earlier. A frame that was
    published twice is read once. Messages that cannot be read are left out, with a warning that counts them.

    Raises:
        SourceError: no broker, no such topic, stream or run, or several streams.
    """
    found = _recordings(_Query.parse(uri))
    if len(found) > 1:
        raise SourceError(
            f"{uri}: found several streams, {', '.join(sorted(found))}; choose one with ?stream=NAME, "
            "or read all of them with read_folder"
        )
    return next(iter(found.values()))


def read_topic(uri: str) -> dict[str, Recording]:
    """All streams of a topic by name, each as `read_stream` reads it.

    Raises:
        SourceError: no broker, no such topic, or a topic without frames.
    """
    return _recordings(_Query.parse(uri))


def _recordings(query: _Query) -> dict[str, Recording]:
    topic = query.topic.topic
    frames: dict[str, dict[str, dict[int, Packet]]] = {}  # by stream, run and seq
    events: dict[tuple[str, str], dict[tuple[str, int], Event]] = {}  # by (stream, run) and (kind, time)
    left_out: Counter[str] = Counter()
    for record in _records(query):
        if query.stream is not None and record.key != query.stream.encode():
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
        missing = "" if query.stream is None else f" of stream {query.stream}"
        raise SourceError(
            f"topic {topic} holds no frames{missing}; choose another topic, or publish to it first"
        )
    chosen = {
        stream: run for stream, runs in frames.items() if (run := _choose_run(runs, query.run)) is not None
    }
    if not chosen:
        known = sorted({run for runs in frames.values() for run in runs})
        raise SourceError(f"topic {topic} holds no run {query.run}; there are: {', '.join(known)}")
    return {
        stream: _recording(topic, stream, run, frames[stream][run], events.get((stream, run), {}).values())
        for stream, run in chosen.items()
    }


def _choose_run(runs: dict[str, dict[int, Packet]], run_id: str | None) -> str | None:
    """The run of this id, None if there is none; without an id the run that captured a frame last."""
    if run_id is not None:
        return run_id if run_id in runs else None
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


def _records(query: _Query) -> Iterator[ConsumerRecord]:
    """All messages that the topic holds now, in order within each partition."""
    topic = query.topic.topic
    connection = Connection.of(brokers=query.topic.brokers)
    admin = connect(KafkaAdminClient, connection)
    try:
        parts = [TopicPartition(topic, number) for number in partitions(admin, connection, topic)]
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
        yield from _read_until(consumer, parts, _end_offsets(consumer, parts, query.until_ms))
    except KafkaError as error:
        raise SourceError(explain(error, connection, topic=topic)) from error
    finally:
        consumer.close(timeout_ms=1000)


def _end_offsets(
    consumer: Any, parts: list[TopicPartition], until_ms: int | None
) -> dict[TopicPartition, int]:
    """The offset at which to stop, for each partition that holds messages before it."""
    ends = consumer.end_offsets(parts)
    if until_ms is not None:
        later = consumer.offsets_for_times(dict.fromkeys(parts, until_ms))
        ends = {part: found.offset if (found := later.get(part)) else end for part, end in ends.items()}
    begins = consumer.beginning_offsets(parts)
    return {part: end for part, end in ends.items() if end > begins[part]}


def _read_until(
    consumer: Any, parts: list[TopicPartition], ends: dict[TopicPartition, int]
) -> Iterator[ConsumerRecord]:
    consumer.assign(list(ends) or parts)
    consumer.seek_to_beginning(*(list(ends) or parts))
    heard = time.monotonic()
    while ends:
        found = consumer.poll(500, max_records=2000)
        for part, records in found.items():
            heard = time.monotonic()
            yield from (record for record in records if record.offset < ends.get(part, 0))
        # Ask for positions: the last offsets may hold no message (compacted topics, marks of transactions).
        for part in [p for p, end in ends.items() if consumer.position(p, timeout_ms=1000) >= end]:
            del ends[part]
            consumer.pause(part)
        if time.monotonic() - heard > STUCK_S:
            raise SourceError(
                f"kafka: no answer for {STUCK_S:g} s, and {len(ends)} partitions are not read to their end; "
                "check that all brokers run"
            )


def _time_ms(text: str, uri: str) -> int:
    try:
        return round(float(text) * 1000)
    except ValueError:
        pass
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise SourceError(
            f"{uri}: until={text} is no time; {FORM}, as in until=2026-01-31T12:00:00Z"
        ) from None
    return round((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)
