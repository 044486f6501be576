"""`kafka_sink` with a real broker: what is published, when packets pass on, and what is refused."""

import os
import time

import numpy as np
import pytest
import toys
from sink_frames import RUN, frame, people, varied

from operators import REGISTRY
from operators.kafka.client import BrokerError
from operators.kafka_sink import KafkaSink
from operators.kafka_source import KafkaSource
from pipeline.errors import OptionError
from pipeline.graph import check_graph
from pipeline.make_run import run_graph
from pipeline.packet import End, Event
from tests.support.kafka.broker import USERS
from tests.support.kafka.kafka_messages import CLIENTS, items, read_topic, seqs, wait_until
from tools.cli import exit_code


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_frames_events_and_the_end_of_a_stream_are_published(kafka, topic, open_sink, client, encoding):
    sink = open_sink(kafka, topic, client=client, encoding=encoding)
    frames = varied()
    assert sink.process(frames) == frames  # packets pass on at once
    sink.event(Event("yard", "back", 123, {"away_s": 1.5}))
    sink.process([frame(len(frames), None)])
    assert sink.end_stream("yard") == []
    sink.close()
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
    assert sink.counters["published"] == len(frames) + 3


def test_a_stream_of_another_run_ends_only_with_its_ended_event(kafka, topic, open_sink):
    sink = open_sink(kafka, topic)
    for stream in ("yard", "barn"):
        sink.process([frame(7, None, stream=stream, run="other")])
    sink.event(Event("yard", "ended", 124, {"frames": 8}, run="other"))
    sink.end_stream("yard")
    sink.end_stream("barn")  # without the event: another worker reads it now
    sink.close()
    got = items(read_topic(kafka, topic))
    assert [item.stream for item in got] == ["yard", "barn", "yard"]
    assert got[2] == End("yard", 8, "other")


def test_a_stream_goes_to_the_partition_that_other_clients_expect(kafka, open_sink):
    from kafka.partitioner import murmur2

    topic = f"test-parts-{os.getpid()}"
    kafka.create_topic(topic, partitions=5)
    sink = open_sink(kafka, topic)
    names = [f"camera-{i}" for i in range(12)]
    for seq in range(10):
        sink.process([frame(seq, None, stream=name) for name in names])
    sink.close()
    found = read_topic(kafka, topic, 120)
    for name in names:
        mine = [message for message in found if message.key == name.encode()]
        assert {message.partition for message in mine} == {(murmur2(name.encode()) & 0x7FFFFFFF) % 5}
        assert seqs(mine, name) == list(range(10))


def test_packets_wait_for_the_broker_with_wait_delivered(own_kafka, open_sink, monkeypatch):
    topic = f"test-delivered-{time.time_ns()}"
    own_kafka.create_topic(topic)
    sink = open_sink(own_kafka, topic, wait="delivered", flush_s=2)
    picture = np.zeros((480, 640, 3), np.uint8)
    first = [frame(seq, None, picture=picture) for seq in range(5)]
    passed = sink.process(first)
    wait_until(lambda: sink.publisher.delivered == 5)
    passed += sink.process([])
    assert [packet.seq for packet in passed] == list(range(5))
    assert all(packet.picture is None for packet in passed)
    own_kafka.pause()
    assert sink.process([frame(seq, None) for seq in range(5, 10)]) == []
    monkeypatch.setattr("operators.kafka_sink.UNDELIVERED_MAX", 3)
    start = time.monotonic()
    assert sink.process([frame(10, None)]) == []  # too many undelivered: it waits, `flush_s` at most
    assert time.monotonic() - start >= 2
    own_kafka.resume()
    sink.flush_s = 60
    assert [packet.seq for packet in sink.end_stream("yard")] == list(range(5, 11))
    sink.close()


def test_packets_whose_messages_are_not_delivered_in_time_are_dropped(own_kafka, open_sink):
    topic = own_kafka.new_topic()
    sink = open_sink(own_kafka, topic, wait="delivered", flush_s=1)
    assert sink.holds_packets
    own_kafka.pause()
    assert sink.process([frame(0, None), frame(1, None)]) == []
    assert sink.end_stream("yard") == []
    assert [(packet.seq, why) for packet, why in sink.take_dropped()] == [
        (0, "not delivered in time"), (1, "not delivered in time")
    ]  # fmt: skip
    own_kafka.resume()
    sink.flush_s = 60
    sink.close()
    assert seqs(read_topic(own_kafka, topic)) == [0, 1]  # they were in the spool


@pytest.mark.parametrize("client", CLIENTS)
def test_a_run_over_files_is_refused_without_a_broker(open_sink, client):
    with pytest.raises(BrokerError, match=r"localhost:9: nobody listens there"):
        open_sink("localhost:9", "poses", run=RUN, client=client)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_missing_topic_is_refused_with_a_similar_name(own_kafka, open_sink, client):
    own_kafka.create_topic(f"horses-{client}")
    with pytest.raises(BrokerError, match=rf"there is no topic horse-{client}; did you mean horses-{client}"):
        open_sink(own_kafka, f"horse-{client}", run=RUN, client=client)


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
def test_wrong_connection_options_are_refused(
    own_kafka, open_sink, monkeypatch, client, listener, options, line
):
    own_kafka.create_topic(name := f"test-wrong-{time.time_ns()}")
    known_user = options.get("username") == "worker"
    monkeypatch.setenv("POSESTREAM_KAFKA_PASSWORD", "worker-secret" if known_user else "hush")
    with pytest.raises(BrokerError, match=line) as refused:
        open_sink(own_kafka.address(listener), name, run=RUN, client=client, **options)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("client", CLIENTS)
def test_publishing_with_a_password_and_encryption(own_kafka, open_sink, monkeypatch, client):
    monkeypatch.setenv("POSESTREAM_KAFKA_PASSWORD", "admin-secret")
    own_kafka.create_topic(name := f"test-secure-{time.time_ns()}")
    sink = open_sink(
        own_kafka.address("SASL_SSL"), name, run=RUN, client=client,
        security="sasl_ssl", username="admin", ca_file=str(own_kafka.ca_file),
    )  # fmt: skip
    sink.process([frame(0, None)])
    sink.close()
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


def test_contradictory_options_are_refused(monkeypatch):
    with pytest.raises(OptionError, match="JSON messages carry no picture"):
        KafkaSink.ports({"topic": "poses", "encoding": "json", "image": "jpeg"})
    assert "image" in KafkaSink.ports({"topic": "poses", "image": "jpeg"}).needs
    monkeypatch.setattr("kafka.codec.has_zstd", lambda: False)
    with pytest.raises(OptionError, match=r"zstd needs a package with kafka-python.*pip install zstandard"):
        KafkaSink.ports({"topic": "poses", "compression": "zstd", "client": "kafka-python"})
    with pytest.raises(OptionError, match="needs a username"):
        KafkaSink.ports({"topic": "poses", "security": "sasl_ssl"})


@pytest.mark.parametrize("client", CLIENTS)
def test_encrypted_and_compressed_messages_are_read_back(own_kafka, open_sink, client, monkeypatch):
    monkeypatch.setenv("POSESTREAM_KAFKA_PASSWORD", USERS["admin"])
    safe = {"security": "sasl_ssl", "username": "admin", "ca_file": str(own_kafka.ca_file)}
    topic, address = own_kafka.new_topic(), own_kafka.address("SASL_SSL")
    sink = open_sink(address, topic, client=client, compression="gzip", **safe)
    sink.process([frame(seq, people(2, seq)) for seq in range(20)])
    sink.end_stream("yard")
    sink.close()
    assert sink.counters["published"] == 21
    source, got = KafkaSource(group=topic, **safe), []
    source.open(RUN)
    for item in source.read("topic", f"kafka://{address}/{topic}"):
        got.append(item)
        if isinstance(item, End):
            source.stop()
    assert [packet.seq for packet in got if not isinstance(packet, End | Event)] == [*range(20)]
