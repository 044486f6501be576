"""Messages of a topic as lines: for people, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from operators.records.messages import MessageError, decode, encode
from pipeline.packet import End, Event, Packet

if TYPE_CHECKING:
    from kafka.consumer.fetcher import ConsumerRecord


def line(message: ConsumerRecord, now_ns: int) -> str:
    """A message for people: stream, frame number, age, and who is in the picture or what happened."""
    return _printable(_line(message, now_ns))


def _line(message: ConsumerRecord, now_ns: int) -> str:
    place = f"{message.topic}/{message.partition}@{message.offset}"
    try:
        item = decode(message.value, message.headers)
    except MessageError as error:
        why = dict(message.headers).get("reason")  # given by whoever set it aside
        said = f"set aside: {why.decode(errors='replace')}" if why else f"cannot be read: {error}"
        return f"{_key(message)}  {place} ({len(message.value or b'')} bytes) {said}"
    seq, at_ns, said = "-", None, ""
    match item:
        case Packet():
            seq, at_ns, said = str(item.seq), item.captured_ns, _who(item)
        case Event():
            details = ", ".join(f"{name} {value}" for name, value in item.details.items())
            at_ns, said = item.at_ns, f"{item.kind}: {details}" if details else item.kind
        case End():
            said = f"ended after {item.frames} frames"
    age = "" if at_ns is None else _age(now_ns - at_ns)
    return f"{item.stream:<12} {seq:>7} {age:>8}  {said}"


def _who(packet: Packet) -> str:
    """How many are in the picture, as what, and with which track ids."""
    found = packet.instances
    if found is None:
        return "nobody has looked"
    if not found:
        return "nobody"
    labels, tracks = found.get("labels"), found.get("track_ids")
    counts: dict[str, int] = {}
    for label in labels.tolist() if labels is not None else ["?"] * len(found):
        counts[label or "?"] = counts.get(label or "?", 0) + 1
    parts = [
        ", ".join(f"{n} {label}" for label, n in counts.items()) if labels is not None else f"{len(found)}"
    ]
    if tracks is not None:
        parts.append("tracks " + " ".join(str(i) if i >= 0 else "-" for i in tracks.tolist()))
    if found.skeleton:
        parts.append(found.skeleton)
    return "  ".join(parts)


def _age(ns: int) -> str:
    seconds = ns / 1e9
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.2f} s"


def json_line(message: ConsumerRecord) -> bytes:
    """The record, as the JSONL sink writes it; of what cannot be read, the place and the reason."""
    try:
        item = decode(message.value, message.headers)
    except MessageError as error:
        given = dict(message.headers).get("reason")
        reason = given.decode(errors="replace") if given else str(error)
        place = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
        return orjson.dumps({"unreadable": reason, "key": _key(message), **place})
    return encode(item, item.run, "json").value


def _key(message: ConsumerRecord) -> str:
    return (message.key or b"").decode(errors="replace") or "-"


def _printable(text: str) -> str:
    """Names come from whoever may write to the topic: they must not steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
