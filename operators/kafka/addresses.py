"""Addresses of brokers, and `kafka://` URIs."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from pipeline.errors import SourceError

DEFAULT_BROKERS = "localhost:9092"
PORT = 9092


class KafkaUri(NamedTuple):
    """`kafka://HOST:PORT[,HOST:PORT…]/TOPIC[?group=NAME]`."""

    brokers: str | None  # None: take them from the options or the environment
    topic: str
    group: str | None


def parse_kafka_uri(uri: str) -> KafkaUri:
    """The parts of a `kafka://` URI.

    Raises:
        SourceError: the URI has another form, or holds a user or a password.
    """
    form = "expected kafka://HOST:PORT/TOPIC?group=NAME"
    parts = urlsplit(uri)
    if "@" in parts.netloc:  # leave it out of the message: it may be a password
        place = f"kafka://…@{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise SourceError(
            f"{place}: no user or password in the address; set POSESTREAM_KAFKA_USERNAME and "
            "POSESTREAM_KAFKA_PASSWORD"
        )
    topic = parts.path.strip("/")
    if parts.scheme != "kafka" or not topic or "/" in topic:
        raise SourceError(f"{uri}: {form}")
    query = parse_qs(parts.query, keep_blank_values=True)
    if unknown := set(query) - {"group"}:
        raise SourceError(f"{uri}: unknown {', '.join(sorted(unknown))}; {form}")
    for broker in filter(None, parts.netloc.split(",")):
        parse_broker(broker)
    return KafkaUri(parts.netloc or None, topic, query.get("group", [""])[0] or None)


def parse_broker(broker: str) -> tuple[str, int]:
    """Host and port of `HOST`, `HOST:PORT` or `[IPv6]:PORT`.

    Raises:
        SourceError: the text is none of these.
    """
    try:
        parts = urlsplit(f"//{broker.strip()}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.username or parts.path:
        raise SourceError(
            f"broker {broker.rpartition('@')[2]!r}: expected HOST:PORT, as in {DEFAULT_BROKERS}"
        )
    return host, port or PORT
