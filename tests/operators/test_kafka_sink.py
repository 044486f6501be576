"""What is published with a real broker: everything, in order, also when the broker or the publisher is killed."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
import toys
from sink_frames import RUN, frame, people, varied

from operators import REGISTRY
from operators.kafka.client import BrokerError
from operators.kafka_sink import KafkaSink
from operators.kafka_source import KafkaSource
from operators.records.messages import decode
from operators.spool.spool import Spool
from pipeline.errors import OptionError
from pipeline.graph import check_graph
from pipeline.packet import End, Event
from pipeline.run import run_graph
from tests.support.kafka.broker import USERS
from tools.cli import exit_code

LIVE = RUN._replace(live=True)
CLIENTS = [
    "kafka-python",
    pytest.param(
        "confluent", marks=pytest.mark.skipif(not find_spec("confluent_kafka"), reason="not installed")
    ),
]


@pytest.fixture
def sink(tmp_path):
    """A function that makes a sink; those that a test leaves open are closed."""
    made = []

    def make(kafka, topic, run=LIVE, **options):
        options = {"spool_dir": str(tmp_path / "spool"), "client": "kafka-python", **options}
        opened = KafkaSink(topic=topic, brokers=getattr(kafka, "bootstrap", kafka), **options)
        opened.open(run)
        made.append(opened)
        return opened

    yield make
    for each in made:
        if each.publisher._thread.is_alive():
            each.flush_s = 0
            each.close()


def read_topic(kafka, topic, n=None):
    """All messages of a topic, or the first n, waited for."""
    from kafka import KafkaConsumer

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
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_all_that_happens_to_a_stream_is_published(kafka, topic, sink, client, encoding):
    publisher = sink(kafka, topic, client=client, encoding=encoding)
    frames = varied()
    assert publisher.process(frames) == frames  # they pass on at once
    publisher.event(Event("yard", "back", 123, {"away_s": 1.5}))
    publisher.process([frame(len(frames), None)])
    assert publisher.end_stream("yard") == []
    publisher.close()
    found = read_topic(kafka, topic, len(frames) + 3)
    *got, event, last, end = items(found)
    assert {message.key for message in found} == {b"yard"}
    assert [packet.seq for packet in got] == [packet.seq for packet in frames]
    assert {packet.run for packet in got} == {RUN.id}
    for packet, sent in zip(got, frames, strict=True):
        assert (packet.instances is None) == (sent.instances is None)
        if sent.instances is not None and encoding == "msgpack":
            for name, array in sent.instances.fields.items():
                np.testing.assert_array_equal(packet.instances[name], array)
    assert (event.kind, event.details, event.run) == ("back", {"away_s": 1.5}, RUN.id)
    assert last.instances is None
    assert (end.stream, end.frames, end.run) == ("yard", len(frames) + 1, RUN.id)
    assert publisher.counters["published"] == len(frames) + 3


def test_a_stream_of_another_run_ends_only_where_its_source_says_so(kafka, topic, sink):
    publisher = sink(kafka, topic)
    for stream in ("yard", "barn"):
        publisher.process([frame(7, None, stream=stream, run="other")])
    publisher.event(Event("yard", "ended", 124, {"frames": 8}, run="other"))
    publisher.end_stream("yard")
    publisher.end_stream("barn")  # this worker has given it to another
    publisher.close()
    got = items(read_topic(kafka, topic))
    assert [item.stream for item in got] == ["yard", "barn", "yard"]
    assert got[2] == End("yard", 8, "other")


def test_streams_keep_to_their_partitions_as_other_clients_see_them(kafka, sink):
    from kafka.partitioner import murmur2

    topic = f"test-parts-{os.getpid()}"
    kafka.create_topic(topic, partitions=5)
    publisher = sink(kafka, topic)
    names = [f"camera-{i}" for i in range(12)]
    for seq in range(10):
        publisher.process([frame(seq, None, stream=name) for name in names])
    publisher.close()
    found = read_topic(kafka, topic, 120)
    for name in names:
        mine = [message for message in found if message.key == name.encode()]
        assert {message.partition for message in mine} == {(murmur2(name.encode()) & 0x7FFFFFFF) % 5}
        assert seqs(mine, name) == list(range(10))


@pytest.mark.parametrize("client", CLIENTS)
def test_a_broker_that_is_killed_and_comes_back(own_kafka, sink, client, caplog, monkeypatch):
    monkeypatch.setattr("operators.kafka.publisher.AWAY_S", 2)
    topic = f"test-killed-{client}-{time.time_ns()}"
    own_kafka.create_topic(topic)
    publisher = sink(own_kafka, topic, client=client)
    slowest, n = 0.0, 0

    def publish(seconds):
        nonlocal slowest, n
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            start = time.monotonic()
            publisher.process([frame(n, people(1, seed=n % 7))])
            slowest = max(slowest, time.monotonic() - start)
            n += 1
            time.sleep(0.002)

    publish(1)
    wait_until(lambda: publisher.spool.waiting == 0)
    own_kafka.kill()
    publish(3)
    wait_until(lambda: publisher.counters["outages"])
    assert publisher.spool.waiting > 500
    own_kafka.start(wait=False)
    publish(1)
    wait_until(lambda: publisher.spool.waiting == 0)
    publish(0.2)
    publisher.close()
    found = seqs(read_topic(own_kafka, topic))
    assert list(dict.fromkeys(found)) == list(range(n))  # all there, the first of each in order
    assert len(found) - n <= 0.01 * n
    assert publisher.counters["published"] == n
    assert slowest < 2  # nothing ever waits for the broker; other tests may take the processor
    own = [record.getMessage() for record in caplog.records if record.name == "posestream.kafka_sink"]
    assert len(own) == 2  # lost once, back once
    assert "nobody listens there" in own[0]
    assert "is back after" in own[1]


WRITER = """
import sys
from sink_frames import RUN, frame, people
from operators.kafka_sink import KafkaSink
from operators.kafka_source import KafkaSource
topic, brokers, spool, told = sys.argv[1:]
sink = KafkaSink(topic=topic, brokers=brokers, spool_dir=spool, client="kafka-python")
sink.open(RUN._replace(live=True))
with open(told, "a", buffering=1) as handed:
    for seq in range(10**6):
        sink.process([frame(seq, people(1))])
        handed.write(f"{seq}\\n")
"""


@pytest.mark.parametrize("away", [False, True])
def test_a_killed_publisher_leaves_its_messages_to_the_next(own_kafka, sink, tmp_path, away):
    topic = f"test-heir-{away}-{time.time_ns()}"
    own_kafka.create_topic(topic)
    told = tmp_path / "told"
    arguments = [topic, own_kafka.bootstrap, str(tmp_path / "spool"), str(told)]
    if away:
        own_kafka.kill()
    path = os.pathsep.join(["tests/support", "."])
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments], env={**os.environ, "PYTHONPATH": path}
    )
    wait_until(lambda: told.exists() and told.read_text().count("\n") > 2000)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    handed = told.read_text().count("\n")
    own_kafka.ensure_running()
    heir = sink(own_kafka, topic)
    heir.process([frame(0, None, stream="barn")])
    heir.flush_s = 60
    heir.close()
    messages = read_topic(own_kafka, topic)
    found = seqs(messages)
    assert set(found) >= set(range(handed))
    assert list(dict.fromkeys(found)) == list(range(max(found) + 1))
    assert items(messages)[-1].stream == "barn"  # what was left comes first
    assert heir.counters["spool_adopted"] >= (handed if away else 0)


def test_packets_wait_for_the_broker_where_told_so(own_kafka, sink, monkeypatch):
    topic = f"test-delivered-{time.time_ns()}"
    own_kafka.create_topic(topic)
    publisher = sink(own_kafka, topic, wait="delivered", flush_s=2)
    picture = np.zeros((480, 640, 3), np.uint8)
    first = [frame(seq, None, picture=picture) for seq in range(5)]
    passed = publisher.process(first)
    wait_until(lambda: publisher.publisher.delivered == 5)
    passed += publisher.process([])
    assert [packet.seq for packet in passed] == list(range(5))
    assert all(packet.picture is None for packet in passed)
    own_kafka.pause()
    assert publisher.process([frame(seq, None) for seq in range(5, 10)]) == []
    monkeypatch.setattr("operators.kafka_sink.HELD_MAX", 3)
    start = time.monotonic()
    assert (
        publisher.process([frame(10, None)]) == []
    )  # more than may be outstanding: it waits, but not for ever
    assert time.monotonic() - start >= 2
    own_kafka.resume()
    publisher.flush_s = 60
    assert [packet.seq for packet in publisher.end_stream("yard")] == list(range(5, 11))
    publisher.close()


def test_packets_whose_messages_are_not_delivered_in_time_are_dropped(own_kafka, sink):
    topic = f"test-undelivered-{time.time_ns()}"
    own_kafka.create_topic(topic)
    publisher = sink(own_kafka, topic, wait="delivered", flush_s=1)
    assert publisher.holds_packets
    own_kafka.pause()
    assert publisher.process([frame(0, None), frame(1, None)]) == []
    assert publisher.end_stream("yard") == []
    assert [(packet.seq, why) for packet, why in publisher.take_dropped()] == [
        (0, "not delivered in time"), (1, "not delivered in time")
    ]  # fmt: skip
    own_kafka.resume()
    publisher.flush_s = 60
    publisher.close()
    assert seqs(read_topic(own_kafka, topic)) == [0, 1]  # they were in the spool


def test_messages_the_broker_does_not_take_are_left_out(kafka, topic, sink, caplog):
    publisher = sink(kafka, topic, image="raw")
    small, large = (
        np.zeros((40, 60, 3), np.uint8),
        np.zeros((700, 800, 3), np.uint8),
    )  # 1.7 MB, the broker takes 1
    sizes = [small, small, large, small, large, small, large, small]
    publisher.process(
        [
            frame(seq, None, picture=image, size=(image.shape[1], image.shape[0]))
            for seq, image in enumerate(sizes)
        ]
    )
    wait_until(lambda: publisher.spool.waiting == 0)
    publisher.close()
    assert publisher.counters["refused"] == 3
    assert list(dict.fromkeys(seqs(read_topic(kafka, topic)))) == [0, 1, 3, 5, 7]
    told = [record.getMessage() for record in caplog.records if "max.message.bytes" in record.getMessage()]
    assert len(told) == 1
    assert "1680" in told[0]


def test_the_cap_is_kept_while_the_broker_is_away(sink, caplog):
    publisher = sink("localhost:9", "poses", spool_mb=1)
    for seq in range(3000):
        publisher.process([frame(seq, people(1))])
    counts = publisher.counters
    kept = publisher.spool.waiting
    publisher.flush_s = 0.1
    publisher.close()
    assert counts["spool_dropped"] > 0
    assert kept + counts["spool_dropped"] == 3000
    assert counts["outages"] == 1
    (line,) = [record.getMessage() for record in caplog.records if "are in the spool" in record.getMessage()]
    assert line.startswith(f"{kept} messages for poses")
    assert "the next run with this topic sends them" in line


def test_a_spool_that_cannot_be_written_does_not_stop_the_run(kafka, topic, sink, tmp_path, caplog):
    (tmp_path / "spool").write_text("no folder")
    publisher = sink(kafka, topic)
    for seq in range(200):
        publisher.process([frame(seq, None)])
    publisher.close()
    assert seqs(read_topic(kafka, topic, 200)) == list(range(200))
    assert publisher.counters["spool_failed"] == 1
    assert caplog.text.count("messages wait in memory") == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_a_damaged_segment_does_not_stop_the_run(kafka, topic, sink, tmp_path, client):
    from operators.kafka.publisher import pack
    from operators.records.messages import encode

    spool = Spool(tmp_path / "spool", 400_000)
    for seq in range(100):
        spool.append([pack(encode(frame(seq, people(1)), RUN.id))])
    spool.close()
    path = sorted((tmp_path / "spool").glob("*/*.spool"))[1]
    data = bytearray(path.read_bytes())
    data[500] ^= 255
    path.write_bytes(data)
    publisher = sink(kafka, topic, client=client)
    publisher.process([frame(100, None)])
    publisher.close()
    found = seqs(read_topic(kafka, topic))
    assert found == sorted(found)
    assert len(found) + publisher.counters["spool_damaged"] == 101
    assert publisher.counters["spool_damaged_segments"] == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_a_run_over_files_is_refused_without_a_broker(sink, client):
    with pytest.raises(BrokerError, match=r"localhost:9: nobody listens there"):
        sink("localhost:9", "poses", run=RUN, client=client)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_topic_that_is_not_there(own_kafka, sink, client):
    own_kafka.create_topic(f"horses-{client}")
    with pytest.raises(BrokerError, match=rf"there is no topic horse-{client}; did you mean horses-{client}"):
        sink(own_kafka, f"horse-{client}", run=RUN, client=client)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("listener", "options", "line"),
    [
        ("SSL", {}, "TLS"),
        ("PLAINTEXT", {"security": "ssl"}, "plain"),
        ("SASL_PLAINTEXT", {"security": "sasl_plaintext", "username": "admin"}, "password is refused"),
        ("SASL_PLAINTEXT", {"security": "sasl_plaintext", "username": "worker"}, "may not"),
    ],
)
def test_a_broker_spoken_to_wrongly(own_kafka, sink, monkeypatch, client, listener, options, line):
    own_kafka.create_topic(name := f"test-wrong-{time.time_ns()}")
    right = options.get("username") == "worker"
    monkeypatch.setenv("POSESTREAM_KAFKA_PASSWORD", "worker-secret" if right else "hush")
    with pytest.raises(BrokerError, match=line) as refused:
        sink(own_kafka.address(listener), name, run=RUN, client=client, **options)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("client", CLIENTS)
def test_passwords_and_encryption(own_kafka, sink, monkeypatch, client):
    monkeypatch.setenv("POSESTREAM_KAFKA_PASSWORD", "admin-secret")
    own_kafka.create_topic(name := f"test-secure-{time.time_ns()}")
    publisher = sink(
        own_kafka.address("SASL_SSL"), name, run=RUN, client=client,
        security="sasl_ssl", username="admin", ca_file=str(own_kafka.ca_file),
    )  # fmt: skip
    publisher.process([frame(0, None)])
    publisher.close()
    assert seqs(read_topic(own_kafka, name, 1)) == [0]


def sink_graph(**options):
    return check_graph(
        {
            "name": "toy",
            "graph": {
                "numbers": {"op": "numbers"},
                "kafka": {"op": "kafka_sink", "after": "numbers", **options},
            },
        },
        {**REGISTRY, **toys.REGISTRY},
    )


def test_a_graph_publishes_its_frames(kafka, topic, tmp_path):
    graph = sink_graph(topic=topic, brokers=kafka.bootstrap, spool_dir=str(tmp_path))
    stats = run_graph(graph, {"yard": "300", "barn": "200"})
    assert stats.finished == 500
    found = read_topic(kafka, topic, 502)
    assert seqs(found, "yard") == list(range(300))
    assert seqs(found, "barn") == list(range(200))
    assert {item.frames for item in items(found) if isinstance(item, End)} == {300, 200}
    assert {item.run for item in items(found)} == {stats.run_id}


def test_a_graph_is_refused_without_a_broker(tmp_path):
    with pytest.raises(BrokerError, match="nobody listens there") as refused:
        run_graph(sink_graph(topic="poses", brokers="localhost:9", spool_dir=str(tmp_path)), {"yard": "3"})
    assert exit_code(refused.value) == 2


def test_options_that_contradict_each_other(monkeypatch):
    with pytest.raises(OptionError, match="JSON messages carry no picture"):
        KafkaSink.ports({"topic": "poses", "encoding": "json", "image": "jpeg"})
    assert "image" in KafkaSink.ports({"topic": "poses", "image": "jpeg"}).needs
    monkeypatch.setattr("kafka.codec.has_zstd", lambda: False)
    with pytest.raises(OptionError, match=r"zstd needs a package with kafka-python.*pip install zstandard"):
        KafkaSink.ports({"topic": "poses", "compression": "zstd", "client": "kafka-python"})
    with pytest.raises(OptionError, match="needs a username"):
        KafkaSink.ports({"topic": "poses", "security": "sasl_ssl"})


@pytest.mark.parametrize("client", CLIENTS)
def test_encrypted_compressed_and_with_a_password_there_and_back(own_kafka, sink, client, monkeypatch):
    monkeypatch.setenv("POSESTREAM_KAFKA_PASSWORD", USERS["admin"])
    safe = {"security": "sasl_ssl", "username": "admin", "ca_file": str(own_kafka.ca_file)}
    topic, address = own_kafka.new_topic(), own_kafka.address("SASL_SSL")
    publisher = sink(address, topic, client=client, compression="gzip", **safe)
    publisher.process([frame(seq, people(2, seq)) for seq in range(20)])
    publisher.end_stream("yard")
    publisher.close()
    assert publisher.counters["published"] == 21
    source, got = KafkaSource(group=topic, **safe), []
    source.open(RUN)
    for item in source.read("topic", f"kafka://{address}/{topic}"):
        got.append(item)
        if isinstance(item, End):
            source.stop()
    assert [packet.seq for packet in got if not isinstance(packet, End | Event)] == [*range(20)]
