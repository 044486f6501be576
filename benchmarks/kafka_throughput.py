"""Messages/s of `kafka_sink` and `kafka_source`, beside bare loops of the client libraries on the same bytes.

    python benchmarks/kafka_throughput.py [--messages 5000] [--people 1 20] [--repeat 5]

The bare loop sends messages that were made beforehand, with the same settings (acks=all, idempotent, linger,
batches), and ends when the last one is acknowledged. `kafka_sink` gets packets: it makes the messages, writes
them to its spool on disk and publishes them from there. All are connected and warm before they are measured,
and are measured in turn. The broker is the one that POSESTREAM_TEST_KAFKA names; without it, one is started.
Target: 90 % of the bare loop of kafka-python, with the library that `client: auto` chooses here.

The limit depends on `client`: kafka-python is written in Python, so its loop, its network thread and the
sink's own threads share one interpreter lock; confluent-kafka works without the lock.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from operators.kafka.choose_producer import Library
from operators.kafka.producer import Publishing
from operators.kafka_sink import KafkaSink
from operators.kafka_source import KafkaSource
from operators.records.messages import Message, decode, encode
from pipeline.operator import RunInfo
from pipeline.packet import Instances, Packet

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.support.kafka.broker import Broker
from tests.support.kafka.topics import create_topic

TARGET, KEYPOINTS = 0.9, 17
RUN = RunInfo.new("bench")
HOW = Publishing("")


def packets(n: int, people: int) -> list[Packet]:
    """Frames of one camera with this many people, as from a graph with tracks and 2D poses."""
    random = np.random.default_rng(0)
    found = [
        Instances(
            skeleton="coco17",
            boxes=random.uniform(0, 1000, (people, 4)).astype(np.float32),
            scores=random.random(people, np.float32),
            labels=np.array(["person"] * people, np.object_),
            track_ids=np.arange(people),
            keypoints=random.uniform(0, 1000, (people, KEYPOINTS, 2)).astype(np.float32),
            keypoint_scores=random.random((people, KEYPOINTS), np.float32),
        )
        for _ in range(50)
    ]
    now = time.time_ns()
    return [
        Packet("yard", i, i * 33_333_333, now + i, (1920, 1080), instances=found[i % 50]) for i in range(n)
    ]


class Cost(NamedTuple):
    """The time of one run through all messages."""

    wall_s: float
    cpu_s: float  # processor time of this process, without the broker


@contextmanager
def timed(into: list[Cost]) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    into.append(Cost(time.perf_counter() - wall, time.process_time() - cpu))


def bare_kafka_python(brokers: str, topic: str, messages: list[Message], into: list[Cost]) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(
        bootstrap_servers=brokers, acks="all", linger_ms=HOW.linger_ms, batch_size=HOW.batch_bytes
    )
    producer.send(topic, *warm(messages)).get()
    with timed(into):
        for key, value, headers in messages:
            producer.send(topic, value, key, headers)
        producer.flush()
    producer.close()


def bare_confluent(brokers: str, topic: str, messages: list[Message], into: list[Cost]) -> None:
    import confluent_kafka

    producer = confluent_kafka.Producer(
        {"bootstrap.servers": brokers, "enable.idempotence": True, "linger.ms": HOW.linger_ms,
         "batch.size": HOW.batch_bytes, "queue.buffering.max.messages": 10_000_000}
    )  # fmt: skip
    producer.produce(topic, *warm(messages))
    producer.flush()
    with timed(into):
        for key, value, headers in messages:
            producer.produce(topic, value, key, headers=headers)
            producer.poll(0)
        producer.flush()


def warm(messages: list[Message]) -> tuple[bytes, bytes]:
    return messages[0].value, messages[0].key


def through_sink(brokers: str, topic: str, frames: list[Packet], client: Library, into: list[Cost]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sink = KafkaSink(topic=topic, brokers=brokers, client=client, spool_dir=folder)
        sink.open(RUN)
        sink.process(frames[:1])
        assert sink.publisher.wait_delivered(0, 30)
        with timed(into):
            for i in range(0, len(frames), sink.batch_max):
                sink.process(frames[i : i + sink.batch_max])
            assert sink.publisher.wait_delivered(len(frames), 600)
        sink.close()


def bare_consumer(brokers: str, topic: str, n: int, into: list[Cost]) -> None:
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(topic, bootstrap_servers=brokers, auto_offset_reset="earliest")
    read = len(first_batch(consumer))
    with timed(into):
        while read < n:
            for batch in consumer.poll(500).values():
                for message in batch:
                    decode(message.value, message.headers)
                read += len(batch)
    consumer.close()


def first_batch(consumer: Any) -> list[Any]:
    """Wait for the first message: after it everything is connected."""
    while True:
        for batch in consumer.poll(500, max_records=1).values():
            return batch


def through_source(brokers: str, topic: str, n: int, into: list[Cost]) -> None:
    source = KafkaSource()
    source.open(RUN)
    items = source.read("topic", f"kafka://{brokers}/{topic}?group={uuid.uuid4().hex[:8]}")
    given = (item for item in items if isinstance(item, Packet))
    next(given)
    with timed(into):
        for _ in range(n - 2):  # the first frame was sent twice, once to warm up
            source.finished(next(given))
    source.stop()
    for _ in items:
        pass
    source.close()


@contextmanager
def broker() -> Iterator[str]:
    """The address of a broker; without POSESTREAM_TEST_KAFKA one runs inside this context."""
    if given := os.environ.get("POSESTREAM_TEST_KAFKA"):
        yield given
        return
    with tempfile.TemporaryDirectory() as folder, Broker(Path(folder)) as own:
        yield own.bootstrap


def measure(brokers: str, people: int, n: int, repeat: int) -> dict[str, float]:
    """Print a table; return the speed of each way as a share of the bare loop."""
    frames = packets(n, people)
    messages = [encode(frame, RUN.id) for frame in frames]
    size = statistics.mean(len(message.value) for message in messages)
    n += 1  # one message warms up
    send: dict[str, Callable[[str, list[Cost]], None]] = {
        "bare kafka-python": lambda topic, into: bare_kafka_python(brokers, topic, messages, into),
        "kafka_sink, kafka-python": lambda topic, into: through_sink(
            brokers, topic, frames, "kafka-python", into
        ),
    }
    if importlib.util.find_spec("confluent_kafka"):
        send["bare confluent"] = lambda topic, into: bare_confluent(brokers, topic, messages, into)
        send["kafka_sink, confluent"] = lambda topic, into: through_sink(
            brokers, topic, frames, "confluent", into
        )
    read: dict[str, Callable[[str, list[Cost]], None]] = {
        "bare consumer, kafka-python": lambda topic, into: bare_consumer(brokers, topic, n, into),
        "kafka_source": lambda topic, into: through_source(brokers, topic, n, into),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in [*send, *read]}
    for _ in range(repeat):
        for name, case in send.items():
            topic = f"bench-{uuid.uuid4().hex[:8]}"
            create_topic(brokers, topic, partitions=1)
            case(topic, costs[name])
        for name, case in read.items():  # read what the last case published
            case(topic, costs[name])
    print(f"\n{people} people a frame, {size:.0f} bytes a message, {n - 1} messages, median of {repeat} runs")
    print(f"{'':30}{'messages/s':>12}{'MB/s':>8}{'µs of processor':>17}{'of the bare loop':>18}")
    reached = {}
    for name, runs in costs.items():
        rate = n / statistics.median(cost.wall_s for cost in runs)
        cpu_us = statistics.median(cost.cpu_s for cost in runs) / n * 1e6
        bare = costs["bare kafka-python" if name in send else "bare consumer, kafka-python"]
        reached[name] = statistics.median(b.wall_s / own.wall_s for b, own in zip(bare, runs, strict=True))
        print(f"{name:30}{rate:12.0f}{rate * size / 1e6:8.2f}{cpu_us:17.1f}{reached[name]:18.0%}")
    return reached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--people", type=int, nargs="*", default=[1, 20])
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    logging.getLogger("posestream").setLevel(logging.ERROR)
    fast_crc = importlib.util.find_spec("crc32c") is not None
    print(f"kafka-python's checksums: {'crc32c, compiled' if fast_crc else 'in Python (pip install crc32c)'}")
    with broker() as brokers:
        print(f"broker {brokers}, linger {HOW.linger_ms:g} ms, batches of {HOW.batch_bytes} bytes")
        reached = [measure(brokers, people, args.messages, args.repeat) for people in args.people]
    default = "confluent" if importlib.util.find_spec("confluent_kafka") else "kafka-python"
    print(f"\ntarget: {TARGET:.0%} of a bare kafka-python loop; kafka_sink reaches at least")
    for client in dict.fromkeys([default, "kafka-python"]):
        worst = min(found[f"kafka_sink, {client}"] for found in reached)
        print(f"  {worst:.0%} with client: {client}{' (auto takes it here)' if client == default else ''}")
    sys.exit(min(found[f"kafka_sink, {default}"] for found in reached) < TARGET)


if __name__ == "__main__":
    main()
