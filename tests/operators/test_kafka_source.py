import threading
import time

import cv2
import numpy as np
import pytest
import sink_frames
import toys
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from operators.kafka.client import BrokerError
from operators.kafka_source import KafkaSource
from operators.records.messages import encode
from pipeline.errors import ConfigError, SourceError
from pipeline.graph import check_graph
from pipeline.operator import RunInfo
from pipeline.packet import End, Event, Packet
from pipeline.run import Run

LIMIT_S = 60


@pytest.fixture
def send(kafka, topic):
    """A function that publishes items, or tuples of key and value as they are; returns when they have arrived."""
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


class Reading:
    """A source at work, in a thread; `items` is what it gave. Finishes what it has read, unless told not to."""

    def __init__(self, kafka, topic, *, live=False, finish=lambda packet: True, pause_s=0.0, **options):
        self.source = KafkaSource(**{"session_s": 6.0, **options})
        self.source.open(RunInfo.new("graph")._replace(live=live))
        self.uri = f"kafka://{kafka if isinstance(kafka, str) else kafka.bootstrap}/{topic}"
        self.items, self.error = [], None
        self._finish, self._pause_s = finish, pause_s
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        try:
            for item in self.source.read("topic", self.uri):
                with self._changed:
                    self.items.append(item)
                    self._changed.notify_all()
                time.sleep(self._pause_s)
                if isinstance(item, Packet) and self._finish(item):
                    self.source.finished(item)
        except Exception as error:
            self.error = error
        with self._changed:
            self._changed.notify_all()

    def wait(self, met):
        deadline = time.monotonic() + LIMIT_S
        with self._changed:
            while not met(self):
                assert not self.error, self.error
                assert time.monotonic() < deadline, self.told
                self._changed.wait(0.1)

    def until(self, *last):
        self.wait(lambda reading: set(last) <= set(reading.told))
        return self.told

    @property
    def packets(self):
        return [item for item in self.items if isinstance(item, Packet)]

    @property
    def told(self):
        """Each item in short: `a3`, `a moved`, `a.` (its end)."""
        return [
            f"{i.stream}{i.seq}"
            if isinstance(i, Packet)
            else f"{i.stream} {i.kind}"
            if isinstance(i, Event)
            else f"{i.stream}."
            for i in list(self.items)
        ]

    def stop(self):
        start = time.monotonic()
        self.source.stop()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        self.stop_s = time.monotonic() - start
        return self


@pytest.fixture
def reading():
    """`Reading`, stopped at the end."""
    made = []

    def make(*args, **options):
        made.append(Reading(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def committed(kafka, topic, group="graph", partition=0):
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=group, enable_auto_commit=False)
    try:
        return consumer.committed(TopicPartition(topic, partition), timeout_ms=10000)
    finally:
        consumer.close()


def test_streams_events_and_ends_in_their_order(kafka, topic, send, reading):
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
    )  # the age of a packet is counted from here


def test_only_what_is_finished_is_committed(kafka, topic, send, reading):
    send(*frames("a", *range(6)))
    first = reading(kafka, topic, finish=lambda packet: packet.seq == 3)  # 0 to 2 were dropped on the way
    first.until("a5")
    first.stop()
    assert committed(kafka, topic) == 4
    second = reading(kafka, topic)
    assert second.until("a5") == ["a moved", "a4", "a5"]
    assert second.items[0].resets
    assert [p.epoch for p in second.packets] == [5, 5]  # the offset of the first message, and one
    second.stop()
    assert committed(kafka, topic) == 6


def test_commits_while_it_reads(kafka, topic, send, reading):
    send(*frames("a", *range(3)))
    reading(kafka, topic).until("a2")
    deadline = time.monotonic() + LIMIT_S
    while committed(kafka, topic) != 3:
        assert time.monotonic() < deadline


def test_what_cannot_be_read_is_set_aside_with_the_reason(kafka, topic, send, reading):
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


def test_pictures_and_nothing_else_are_frames(kafka, topic, send, reading):
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
    one.wait(lambda reading: reading.source.counters["poison"] == 1)  # a key that is no name


def test_duplicates_are_left_out(kafka, topic, send, reading):
    ended = End("a", 3)
    send(*frames("a", 0, 1), *frames("a", 0, 1, 2), ended, *frames("a", 2), ended, *frames("b", 0))
    one = reading(kafka, topic)
    assert one.until("b0") == ["a0", "a1", "a2", "a ended", "a.", "b0"]
    assert one.stop().source.counters["duplicates"] == 3
    assert committed(kafka, topic) == 9


def test_the_next_run_of_a_stream_ends_the_one_before(kafka, topic, send, reading):
    send(*frames("a", 0, 1))
    send(*frames("a", 0, 1), run="r2")
    send(*frames("a", 7), run="r3")
    one = reading(kafka, topic)
    assert one.until("a7") == ["a0", "a1", "a.", "a0", "a1", "a.", "a moved", "a7"]
    assert [(p.run, p.epoch) for p in one.packets][-3:] == [("r2", 0), ("r2", 0), ("r3", 1)]


def test_in_a_graph_everything_that_has_left_it_is_committed(kafka, topic, send):
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
    told = [told for told in toys.Diary.entries if told.startswith("a") and told != "a ended"]
    assert told == [*(f"a{i}" for i in range(20)), "a ends"]
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
    first.wait(lambda reading: any(isinstance(item, End) for item in reading.items))  # it gives partitions up
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
    first.stop()  # and now all of them go to the second
    send(*(frame for stream in streams for frame in frames(stream, 6)), to=name)
    second.until(*(f"{stream}6" for stream in streams))


def test_a_graph_that_is_slow_stays_in_its_group(kafka, topic, send, reading):
    send(*frames("a", *range(4)))
    one = reading(kafka, topic, session_s=1.0, pause_s=1.5)
    assert one.until("a3") == ["a0", "a1", "a2", "a3"]
    one.stop()
    assert committed(kafka, topic) == 4


def test_a_join_that_hangs_is_begun_anew(kafka, topic, send, reading, monkeypatch, caplog):
    send(*frames("a", *range(3)))
    first = reading(kafka, topic, session_s=30.0, pause_s=4.0)
    first.wait(lambda reading: len(reading.packets) == 1)
    monkeypatch.setattr("operators.kafka.member.STUCK_S", 0.5)
    second = reading(kafka, topic)  # cannot join before the first one polls again
    first.wait(lambda _: "joining anew" in caplog.text)
    first.stop()
    last = frames("a", 3)
    send(*last)
    second.until("a3")


def test_a_broker_that_dies_is_waited_for(own_kafka, topic, send, reading):
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
def test_stop_ends_it_soon(kafka, topic, send, reading, live):
    send(*frames("a", 0))
    one = reading(kafka, topic, live=live)
    one.until("a0")
    assert one.stop().stop_s < 5  # about 0.3 where nothing else runs


def test_a_topic_that_is_not_there(kafka, topic, reading):
    one = reading(kafka, topic + "x")
    with pytest.raises(AssertionError, match=f"there is no topic {topic}x; did you mean .*{topic}"):
        one.until("anything")
    assert isinstance(one.error, BrokerError)


def test_live_it_waits_for_a_topic_and_for_a_broker(kafka, topic, send, reading):
    one = reading(kafka, topic + "-late", live=True)
    one.until("topic lost")
    kafka.create_topic(topic + "-late")
    one.until("topic back")
    send(*frames("a", 0), to=topic + "-late")
    one.until("a0")


def test_no_broker(reading):
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


def test_options_that_contradict_each_other_are_refused():
    spec = {"op": "kafka_source", "security": "ssl", "username": "me"}
    with pytest.raises(ConfigError, match="username has no use with security ssl"):
        check_graph({"name": "g", "graph": {"kafka_source": spec}}, {"kafka_source": KafkaSource})
