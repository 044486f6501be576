"""Read the messages of a topic, for the tests of what is published."""

from __future__ import annotations

import time
from importlib.util import find_spec

import pytest
from kafka import KafkaConsumer

from operators.records.messages import decode
from pipeline.packet import End, Event

CLIENTS = [
    "kafka-python",
    pytest.param(
        "confluent", marks=pytest.mark.skipif(not find_spec("confluent_kafka"), reason="not installed")
    ),
]


def read_topic(kafka, topic, n=None):
    """All messages of a topic; with `n`, wait until there are n."""
    consumer = KafkaConsumer(
        topic, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    found, deadline = [], time.monotonic() + 60
    try:
        ends = None
        while time.monotonic() < deadline:
            found += [message for batch in consumer.poll(200).values() for message in batch]
            if n is not None and len(found) >= n:
                break
            ends = (
                consumer.end_offsets(consumer.assignment()) if n is None and consumer.assignment() else None
            )
            if ends and all(consumer.position(part) >= end for part, end in ends.items()):
                break
    finally:
        consumer.close()
    return found


def items(messages):
    return [decode(message.value, message.headers) for message in messages]


def seqs(messages, stream="yard"):
    return [
        item.seq for item in items(messages) if item.stream == stream and not isinstance(item, End | Event)
    ]


def wait_until(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)
