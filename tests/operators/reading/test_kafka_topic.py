"""Reading a topic back: streams, runs, duplicates, an end in time, and topics that are refused."""

import logging

import numpy as np
import pytest
import sink_frames
from kafka import KafkaProducer

import posestream
from operators.records.messages import encode
from pipeline.errors import SourceError
from pipeline.packet import End, Event, Packet


@pytest.fixture(scope="module")
def published(kafka):
    """A topic of three partitions: streams yard (two runs, duplicates, garbage), barn and json."""
    topic = kafka.new_topic(partitions=3) if hasattr(kafka, "new_topic") else "posestream-test-read"
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)

    def send(item, run, at_ms, encoding="msgpack", image="none"):
        message = encode(item, run, encoding, image)
        producer.send(
            topic, key=message.key, value=message.value, headers=message.headers, timestamp_ms=at_ms
        )

    for seq in range(3):
        send(yard(seq, captured_ns=seq), "old", 1000 + seq)
    for seq in (0, 1, 2, 2, 3, 1):  # duplicates, as after a publisher was killed
        send(yard(seq), "new", 2000 + seq)
    for _ in range(2):
        send(Event("yard", "lost", 7, {"reason": "dark"}), "new", 2500)
    send(End("yard", 4), "new", 2600)
    for packet in sink_frames.varied("barn"):
        picture = np.zeros((480, 640, 3), np.uint8)
        send(packet.replace(picture=picture), "new", 3000, image="png")
    producer.send(topic, key=b"yard", value=b"rubbish", timestamp_ms=3000)
    send(yard(9, stream="json"), "new", 3000, "json")
    producer.flush(30)
    producer.close()
    return f"kafka://{kafka.bootstrap}/{topic}"


def yard(seq, **changes):
    return sink_frames.frame(seq, sink_frames.people(2, seq), **{"stream": "yard", **changes})


def test_a_stream_comes_back_as_it_was_captured(published, caplog):
    with caplog.at_level(logging.WARNING):
        found = posestream.read(f"{published}?stream=yard")
    assert "left out 1 messages, most of them: expected a message with the header schema" in caplog.text
    assert (found.stream, found.header["run"]) == ("yard", "new")  # the newest run
    assert found.seq.tolist() == [0, 1, 2, 3]  # each frame once
    assert list(found.header["skeletons"]) == ["blazepose33"]
    assert [(event.kind, event.details) for event in found.events] == [("lost", {"reason": "dark"})]
    for frame in range(4):
        sent = sink_frames.people(2, frame)
        np.testing.assert_array_equal(found.keypoints[found.frame == frame], sent.keypoints)  # not rounded


def test_a_run_that_is_asked_for(published):
    found = posestream.read(f"{published}?stream=yard&run=old")
    assert (found.header["run"], found.seq.tolist()) == ("old", [0, 1, 2])


@pytest.mark.parametrize(
    ("until", "seqs"), [("2.002", [0, 1]), ("1970-01-01T00:00:01.002Z", [0, 1]), ("9e9", [0, 1, 2, 3])]
)
def test_reading_until_a_time(published, until, seqs):
    assert posestream.read(f"{published}?stream=yard&until={until}").seq.tolist() == seqs


def test_all_streams_of_a_topic(published):
    found = posestream.read_folder(published)
    assert {name: len(recording) for name, recording in found.items()} == {"yard": 4, "barn": 7, "json": 1}
    assert found["barn"].searched.tolist() == [
        packet.instances is not None for packet in sink_frames.varied()
    ]
    assert all(isinstance(packet, Packet) for packet in found["barn"].packets())


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "",
            "found several streams, barn, json, yard; choose one with .stream=NAME, or read all of them with read_folder",
        ),
        ("?stream=gate", "holds no frames of stream gate"),
        ("?stream=yard&run=none", "holds no run none; there are: new, old"),
        ("?until=soon", "until=soon is no time; expected kafka://"),
        ("?color=red", "unknown color"),
        ("x", "there is no topic"),
    ],
)
def test_missing_streams_runs_and_topics_are_refused(published, query, message):
    with pytest.raises(SourceError, match=message):
        posestream.read(f"{published}{query}")


def test_an_empty_topic_is_refused(kafka, topic):
    with pytest.raises(SourceError, match=f"topic {topic} holds no frames; choose another topic"):
        posestream.read(f"kafka://{kafka.bootstrap}/{topic}")


def test_without_a_broker_reading_fails():
    with pytest.raises(SourceError, match="nobody listens there"):
        posestream.read("kafka://localhost:9/poses")
