"""A message of a topic as one line: as text for people, or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from operators.records.messages import MessageError, decode, encode
from pipeline.packet import End, Event, Packet

if TYPE_CHECKING:
    from kafka.consumer.fetcher import ConsumerRecord


def text_line(message: ConsumerRecord, now_ns: int) -> str:
    """A message as text: stream, frame number, age, and what the frame or event holds."""
    return _printable(_text_line(message, now_ns))


def _text_line(message: ConsumerRecord, now_ns: int) -> str:
    place = f"{message.topic}/{message.partition}@{message.offset}"
    try:
        item = decode(message.value, message.headers)
    except MessageError as error:
        reason = dict(message.headers).get("reason")  # kafka_source adds it in the dead-letter topic
        text = f"set aside: {reason.decode(errors='replace')}" if reason else f"cannot be read: {error}"
        return f"{_key(message)}  {place} ({len(message.value or b'')} bytes) {text}"
    seq, at_ns, text = "-", None, ""
    match item:
        case Packet():
            seq, at_ns, text = str(item.seq), item.captured_ns, _instances(item)
        case Event():
            details = ", ".join(f"{name} {value}" for name, value in item.details.items())
            at_ns, text = item.at_ns, f"{item.kind}: {details}" if details else item.kind
        case End():
            text = f"ended after {item.frames} frames"
    age = "" if at_ns is None else _age(now_ns - at_ns)
    return f"{item.stream:<12} {seq:>7} {age:>8}  {text}"


def _instances(packet: Packet) -> str:
    """How many instances of which labels, their track ids, and their skeleton."""
    instances = packet.instances
    if instances is None:
        return "no detector ran"
    if not instances:
        return "no instances"
    labels, tracks = instances.get("labels"), instances.get("track_ids")
    counts: dict[str, int] = {}
    for label in labels.tolist() if labels is not None else ["?"] * len(instances):
        counts[label or "?"] = counts.get(label or "?", 0) + 1
    parts = [
        ", ".join(f"{n} {label}" for label, n in counts.items())
        if labels is not None
        else f"{len(instances)}"
    ]
    if tracks is not None:
        parts.append("tracks " + " ".join(str(i) if i >= 0 else "-" for i in tracks.tolist()))
    if instances.skeleton:
        parts.append(instances.skeleton)
    return "  ".join(parts)


def _age(ns: int) -> str:
    seconds = ns / 1e9
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.2f} s"


def json_line(message: ConsumerRecord) -> bytes:
    """The record as the JSONL sink writes it; for an unreadable message, its place and the reason."""
    try:
        item = decode(message.value, message.headers)
    except MessageError as error:
        header = dict(message.headers).get("reason")
        reason = header.decode(errors="replace") if header else str(error)
        place = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
        return orjson.dumps({"unreadable": reason, "key": _key(message), **place})
    return encode(item, item.run, "json").value


def _key(message: ConsumerRecord) -> str:
    return (message.key or b"").decode(errors="replace") or "-"


def _printable(text: str) -> str:
    """Replace control characters: anyone who can write to the topic could else control the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
