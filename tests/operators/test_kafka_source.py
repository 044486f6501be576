"""`kafka_source` with a real broker: order, commits, duplicates, workers that come and go, bad messages."""

import time

import cv2
import numpy as np
import pytest
import sink_frames
import toys
from kafka import KafkaConsumer, KafkaProducer

from operators.kafka.client import BrokerError
from operators.kafka_source import KafkaSource
from operators.records.messages import encode
from pipeline.errors import ConfigError, SourceError
from pipeline.graph import check_graph
from pipeline.operator import RunInfo
from pipeline.packet import End, Event
from pipeline.run import Run
from tests.support.kafka.kafka_reading import LIMIT_S, Reading, committed


@pytest.fixture
def send(kafka, topic):
    """A function that publishes items, or raw (key, value) tuples; returns once the broker has them."""
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)

    def send(*items, run="r1", to=topic):
        for item in items:
            if isinstance(item, tuple):
                producer.send(to, key=item[0], value=item[1])
            else:
                message = encode(
                    item, run, image="png" if getattr(item, "picture", None) is not None else "none"
                )
                producer.send(to, key=message.key, value=message.value, headers=message.headers)
        producer.flush(30)

    yield send
    producer.close()


def frames(stream, *seqs, n=1):
    return [sink_frames.frame(seq, sink_frames.people(n, seq), stream) for seq in seqs]


@pytest.fixture
def reading():
    """A function that makes a `Reading`; all are stopped at the end."""
    made = []

    def make(*args, **options):
        made.append(Reading(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_frames_events_and_ends_are_read_in_order(kafka, topic, send, reading):
    lost = Event("b", "lost", 5, {"reason": "dark"}, run="r0")
    send(*frames("a", 0, 1), *frames("b", 0), lost, *frames("b", 1), End("a", 2), *frames("b", 2))
    one = reading(kafka, topic)
    assert one.until("b2") == ["a0", "a1", "b0", "b lost", "b1", "a ended", "a.", "b2"]
    assert [(p.run, p.epoch) for p in one.packets] == [("r1", 0)] * 5
    assert one.items[3].details == {"reason": "dark"}
    assert (one.items[5].details, one.items[5].run, one.items[6]) == ({"frames": 2}, "r1", End("a", 2, "r1"))
    sent = frames("b", 2)[0]
    np.testing.assert_array_equal(one.packets[-1].instances.keypoints, sent.instances.keypoints)
    assert (
        one.packets[-1].entered_ns > time.time_ns() - LIMIT_S * 10**9
    )  # set anew by the source: the age of a packet starts here


def test_only_finished_packets_are_committed(kafka, topic, send, reading):
    send(*frames("a", *range(6)))
    first = reading(kafka, topic, finish=lambda packet: packet.seq == 3)  # as if 0 to 2 had been dropped
    first.until("a5")
    first.stop()
    assert committed(kafka, topic) == 4
    second = reading(kafka, topic)
    assert second.until("a5") == ["a moved", "a4", "a5"]
    assert second.items[0].resets
    assert [p.epoch for p in second.packets] == [5, 5]  # the offset of the first message read, plus one
    second.stop()
    assert committed(kafka, topic) == 6


def test_commits_while_it_reads(kafka, topic, send, reading):
    send(*frames("a", *range(3)))
    reading(kafka, topic).until("a2")
    deadline = time.monotonic() + LIMIT_S
    while committed(kafka, topic) != 3:
        assert time.monotonic() < deadline


def test_unreadable_messages_are_copied_with_the_reason(kafka, topic, send, reading):
    send(
        *frames("a", 0),
        (b"a", b"rubbish"),
        (b"a", None),
        (None, b"\xff\xd8\xff and no more"),
        *frames("a", 1),
    )
    one = reading(kafka, topic)
    assert one.until("a1") == ["a0", "a1"]
    assert one.stop().source.counters["poison"] == 3
    assert committed(kafka, topic) == 5
    dead = KafkaConsumer(
        f"{topic}.dead",
        bootstrap_servers=kafka.bootstrap,
        auto_offset_reset="earliest",
        consumer_timeout_ms=LIMIT_S * 1000,
    )
    found = [next(dead) for _ in range(3)]
    dead.close()
    assert [message.value for message in found] == [b"rubbish", None, b"\xff\xd8\xff and no more"]
    headers = [dict(message.headers) for message in found]
    assert b"header schema 'posestream/1', found none" in headers[0]["reason"]
    assert b"expected a picture" in headers[2]["reason"]
    assert [h["from"].decode() for h in headers] == [f"{topic}/0/{offset}" for offset in (1, 2, 3)]


def test_bare_pictures_are_frames(kafka, topic, send, reading):
    picture = np.full((48, 64, 3), (10, 120, 240), np.uint8)
    files = [
        cv2.imencode(kind, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes() for kind in (".png", ".jpg")
    ]
    send((b"yard", files[0]), (None, files[1]), (b"yard", files[0]), ("höf".encode("latin-1"), files[0]))
    one = reading(kafka, topic)
    one.wait(lambda reading: len(reading.packets) == 3)
    png, jpeg, _ = one.packets
    assert [(p.stream, p.seq, p.size) for p in one.packets] == [
        ("yard", 0, (64, 48)), (topic, 1, (64, 48)), ("yard", 2, (64, 48))
    ]  # fmt: skip
    np.testing.assert_array_equal(png.image, picture)
    assert np.abs(jpeg.image.astype(int) - picture).max() < 4
    assert abs(png.captured_ns - time.time_ns()) < LIMIT_S * 10**9
    one.wait(lambda reading: reading.source.counters["poison"] == 1)  # a key that is not UTF-8


def test_duplicates_are_dropped(kafka, topic, send, reading):
    ended = End("a", 3)
    send(*frames("a", 0, 1), *frames("a", 0, 1, 2), ended, *frames("a", 2), ended, *frames("b", 0))
    one = reading(kafka, topic)
    assert one.until("b0") == ["a0", "a1", "a2", "a ended", "a.", "b0"]
    assert one.stop().source.counters["duplicates"] == 3
    assert committed(kafka, topic) == 9


def test_a_new_run_of_a_stream_ends_the_previous_one(kafka, topic, send, reading):
    send(*frames("a", 0, 1))
    send(*frames("a", 0, 1), run="r2")
    send(*frames("a", 7), run="r3")
    one = reading(kafka, topic)
    assert one.until("a7") == ["a0", "a1", "a.", "a0", "a1", "a.", "a moved", "a7"]
    assert [(p.run, p.epoch) for p in one.packets][-3:] == [("r2", 0), ("r2", 0), ("r3", 1)]


def test_all_that_has_left_a_graph_is_committed(kafka, topic, send):
    send(*frames("a", *range(20)), *frames("b", *range(20)), End("a", 20), End("b", 20))
    toys.Diary.entries.clear()
    graph = check_graph(
        {"name": "toy", "graph": {
            "kafka_source": {"op": "kafka_source", "group": "other", "session_s": 6},
            "hold": {"op": "hold", "after": "kafka_source"}, "diary": {"op": "diary", "after": "hold"},
        }},
        toys.REGISTRY | {"kafka_source": KafkaSource},
    )  # fmt: skip
    run = Run(graph, {"topic": f"kafka://{kafka.bootstrap}/{topic}"})
    run.start()
    deadline = time.monotonic() + LIMIT_S
    while toys.Diary.entries.count("a ends") + toys.Diary.entries.count("b ends") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.stop()
    stats = run.finish()
    entries = [entry for entry in toys.Diary.entries if entry.startswith("a") and entry != "a ended"]
    assert entries == [*(f"a{i}" for i in range(20)), "a ends"]
    assert "a ended" in toys.Diary.entries
    assert [(s.name, s.read, s.finished) for s in stats.streams] == [("a", 20, 20), ("b", 20, 20)]
    assert committed(kafka, topic, "other") == 42


def test_a_new_worker_takes_streams_over_and_nothing_is_lost(kafka, topic, send, reading):
    name = f"{topic}-wide"
    kafka.create_topic(name, partitions=4)
    streams = "abcdefgh"
    send(*(frame for seq in range(3) for stream in streams for frame in frames(stream, seq)), to=name)
    first = reading(kafka, name)
    first.wait(lambda reading: len(reading.packets) == 24)
    second = reading(kafka, name)
    first.wait(lambda reading: any(isinstance(item, End) for item in reading.items))  # some partitions move
    send(*(frame for seq in range(3, 6) for stream in streams for frame in frames(stream, seq)), to=name)
    first.wait(lambda _: len(first.packets) + len(second.packets) == 48)
    moved = {item.stream for item in first.items if isinstance(item, End)}
    assert {(p.stream, p.seq) for p in first.packets + second.packets} == {
        (s, i) for s in streams for i in range(6)
    }
    assert {p.stream for p in second.packets} == moved
    assert {item.stream for item in second.items if isinstance(item, Event) and item.kind == "moved"} == moved
    assert "ended" not in {item.kind for item in first.items if isinstance(item, Event)}
    assert all(p.epoch > 0 for p in second.packets)
    assert all(p.epoch == 0 for p in first.packets)
    first.stop()  # now all partitions move to the second
    send(*(frame for stream in streams for frame in frames(stream, 6)), to=name)
    second.until(*(f"{stream}6" for stream in streams))


def test_a_slow_graph_stays_in_its_group(kafka, topic, send, reading):
    send(*frames("a", *range(4)))
    one = reading(kafka, topic, session_s=1.0, pause_s=1.5)
    assert one.until("a3") == ["a0", "a1", "a2", "a3"]
    one.stop()
    assert committed(kafka, topic) == 4


def test_a_join_that_hangs_is_repeated(kafka, topic, send, reading, monkeypatch, caplog):
    send(*frames("a", *range(3)))
    first = reading(kafka, topic, session_s=30.0, pause_s=4.0)
    first.wait(lambda reading: len(reading.packets) == 1)
    monkeypatch.setattr("operators.kafka.group_member.STUCK_S", 0.5)
    second = reading(kafka, topic)  # cannot join before the first one polls again
    first.wait(lambda _: "joining again" in caplog.text)
    first.stop()
    last = frames("a", 3)
    send(*last)
    second.until("a3")


def test_the_source_waits_for_a_broker_that_is_killed(own_kafka, topic, send, reading):
    send(*frames("a", 0, 1))
    one = reading(own_kafka, topic)
    one.until("a1")
    own_kafka.kill()
    one.until("a lost")
    (lost,) = (item for item in one.items if isinstance(item, Event))
    assert "nobody listens there" in lost.details["reason"]
    own_kafka.restart()
    one.until("a back")
    assert one.items[-1].details["away_s"] > 0
    send(*frames("a", 2))
    assert one.until("a2")[-1] == "a2"
    assert one.packets[-1].epoch == 0  # the same stream, without a gap


@pytest.mark.parametrize("live", [False, True])
def test_stop_ends_reading_soon(kafka, topic, send, reading, live):
    send(*frames("a", 0))
    one = reading(kafka, topic, live=live)
    one.until("a0")
    assert one.stop().stop_s < 5  # about 0.3 s on an idle machine


def test_a_missing_topic_is_refused_with_a_similar_name(kafka, topic, reading):
    one = reading(kafka, topic + "x")
    with pytest.raises(AssertionError, match=f"there is no topic {topic}x; did you mean .*{topic}"):
        one.until("anything")
    assert isinstance(one.error, BrokerError)


def test_a_live_run_waits_for_a_missing_topic(kafka, topic, send, reading):
    one = reading(kafka, topic + "-late", live=True)
    one.until("topic lost")
    kafka.create_topic(topic + "-late")
    one.until("topic back")
    send(*frames("a", 0), to=topic + "-late")
    one.until("a0")


def test_without_a_broker_reading_fails_unless_the_run_is_live(reading):
    with pytest.raises(AssertionError, match="nobody listens there"):
        reading("localhost:9", "poses").until("anything")
    away = reading("localhost:9", "poses", live=True)
    away.until("topic lost")
    assert away.stop().stop_s < 5


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("poses", "expected kafka://HOST:PORT/TOPIC"),
        ("kafka://u:secret@h/t", "no user or password in the address"),
    ],
)
def test_other_uris_are_refused(uri, message):
    source = KafkaSource()
    source.open(RunInfo.new("g"))
    with pytest.raises(SourceError, match=message) as raised:
        next(source.read("a", uri))
    assert "secret" not in str(raised.value)


def test_contradictory_options_are_refused():
    spec = {"op": "kafka_source", "security": "ssl", "username": "me"}
    with pytest.raises(ConfigError, match="username has no use with security ssl"):
        check_graph({"name": "g", "graph": {"kafka_source": spec}}, {"kafka_source": KafkaSource})
