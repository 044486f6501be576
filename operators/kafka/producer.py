"""What the publisher needs of a Kafka library: a `Producer`, and the settings it is made with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from operators.records.messages import Message

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
CONNECT_S = 5.0
LARGEST_BYTES = 64 << 20  # of a message, in the client; the broker's own limit is lower


class Publishing(NamedTuple):
    """Where to publish, and how to compress and batch messages."""

    topic: str
    compression: Compression = "none"
    linger_ms: float = 5.0
    batch_bytes: int = 65536


class Failure(NamedTuple):
    """The first message that was not published; whether later ones were is unknown."""

    at: int  # index of the message
    too_large: bool  # larger than the broker accepts
    refused: bool  # the broker will never accept it
    error: Exception


class Producer(Protocol):
    """Publishes messages in order; the caller gives each message an index."""

    failure: Failure | None  # once set, this producer must be replaced

    def send(self, messages: Sequence[tuple[int, Message]]) -> None:
        """Queue messages for publishing; returns at once."""
        ...

    def acknowledged(self) -> Sequence[int]:
        """Indices of messages that the broker has acknowledged since the last call."""
        ...

    def close(self) -> None:
        """Stop; messages that are not acknowledged are given up."""
        ...
