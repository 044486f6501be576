"""What a consumed message holds: an item that `kafka_sink` wrote, or a bare JPEG or PNG as a frame."""

from __future__ import annotations

import time

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from operators.records.messages import MessageError, decode, decode_picture
from pipeline.packet import End, Event, Packet

MAGIC = (b"\xff\xd8\xff", b"\x89PNG")  # how a JPEG and a PNG begin


def partition_of(record: ConsumerRecord) -> TopicPartition:
    """The partition that a message comes from."""
    return TopicPartition(record.topic, record.partition)


def item_of(record: ConsumerRecord) -> Packet | Event | End:
    """The packet, event or end of stream in a message.

    A bare picture becomes a frame: its stream is the key, else the topic; its `seq` is the offset.

    Raises:
        MessageError: the message cannot be read.
    """
    value = record.value or b""
    if any(name == "schema" for name, _ in record.headers) or not value.startswith(MAGIC):
        return decode(value, record.headers)
    picture = decode_picture(value)
    try:
        stream = record.key.decode() if record.key else record.topic
    except UnicodeDecodeError:
        raise MessageError(f"expected the stream's name as key, found {record.key!r:.60}") from None
    if not record.key and record.partition:
        stream = f"{stream}-{record.partition}"  # only within a partition are offsets in order
    height, width = picture.shape[:2]
    captured_ns = record.timestamp * 1_000_000 if record.timestamp > 0 else time.time_ns()
    run = f"{record.topic}-{record.partition}"
    return Packet(stream, record.offset, captured_ns, captured_ns, (width, height), picture, run=run)
