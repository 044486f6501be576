"""`posestream kafka tail` and `lag` as processes, with a real broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import orjson
import pytest
from kafka import KafkaConsumer, KafkaProducer

from operators.records.messages import encode
from pipeline.packet import End, Event, Instances, Packet

pytestmark = pytest.mark.slow


@pytest.fixture
def posestream(kafka):
    """A function that starts `posestream kafka …` with the tests' broker."""
    environment = {**os.environ, "POSESTREAM_KAFKA": kafka.bootstrap, "PYTHONUNBUFFERED": "1"}
    started = []

    def start(*arguments, **changes):
        command = [sys.executable, "-m", "tools.cli", "kafka", *arguments]
        process = subprocess.Popen(
            command, env=environment | changes, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finished(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture
def publish(kafka, topic):
    """A function that publishes items, or raw (key, value, headers) tuples, to the topic."""
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)

    def put(*items, run="run1"):
        for item in items:
            key, value, headers = item if isinstance(item, tuple) else encode(item, run)
            producer.send(topic, value, key, headers)
        producer.flush(20)

    yield put
    producer.close()


def frame(seq, age_s=5.0, **fields):
    instances = Instances(skeleton="ap10k", **fields) if fields else None
    return Packet("yard", seq, seq * 10, time.time_ns() - int(age_s * 1e9), (64, 48), instances=instances)


def two_horses():
    return {
        "boxes": np.zeros((2, 4), np.float32),
        "labels": np.array(["horse", "horse"], np.object_),
        "track_ids": np.array([3, -1]),
    }


def test_tail_as_text(posestream, publish, topic):
    lost = Event("yard", "lost", time.time_ns(), {"reason": "no frame for 5 s"})
    dead = (b"yard", b"\xff", [("reason", b"expected a map, found int")])
    publish(frame(0), frame(1, **two_horses()), lost, End("yard", 2), (b"\x1b[31mcat", b"?", []), dead)
    code, out, err = finished(posestream("tail", topic, "--from", "beginning", "--limit", "6"))
    assert code == 0, err
    first, second, third, fourth, fifth, sixth = out.splitlines()
    assert first.split()[:2] == ["yard", "0"]
    assert first.endswith("no detector ran")
    assert float(first.split()[2]) >= 5
    assert second.endswith("2 horse  tracks 3 -  ap10k")
    assert third.endswith("lost: reason no frame for 5 s")
    assert fourth.split(maxsplit=2) == ["yard", "-", "ended after 2 frames"]
    assert "cannot be read: expected a message with the header schema" in fifth
    assert "\x1b" not in fifth
    assert sixth.endswith("set aside: expected a map, found int")


def test_tail_as_json(posestream, publish, topic):
    publish(*(frame(seq) for seq in range(5)), (b"cat", b"?", []))
    code, out, err = finished(posestream("tail", topic, "--from", "3", "--limit", "3", "--json"))
    assert code == 0
    assert err == ""
    one, two, bad = map(orjson.loads, out.splitlines())
    assert [(r["stream"], r["run"], r["seq"]) for r in (one, two)] == [
        ("yard", "run1", 3),
        ("yard", "run1", 4),
    ]
    assert (bad["key"], bad["topic"], bad["offset"]) == ("cat", topic, 5)
    assert bad["unreadable"].startswith("expected a message")


def test_tail_follows_until_ctrl_c(posestream, publish, topic):
    publish(frame(0))
    process = posestream("tail", topic)
    assert "Ctrl-C ends" in process.stderr.readline()
    publish(frame(1))
    assert process.stdout.readline().split()[:2] == ["yard", "1"]  # not frame 0, which was published before
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert code == 0
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tail", "nosuchtopic"], "there is no topic nosuchtopic"),
        (["tail", "nosuchtopic", "--brokers", "localhost:1"], "kafka localhost:1: nobody listens there"),
        (["tail", "nosuchtopic", "--from", "yesterday"], "--from yesterday: expected beginning, end"),
        (["lag", "nosuchgroup"], "there is no consumer group nosuchgroup"),
        (["lag", "--brokers", "localhost:1"], "nobody listens there"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(posestream, arguments, message):
    code, out, err = finished(posestream(*arguments))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


def test_tail_outlives_the_broker(own_kafka, posestream):
    topic = own_kafka.new_topic()
    process = posestream("tail", topic, POSESTREAM_KAFKA=own_kafka.bootstrap)
    assert "Ctrl-C ends" in process.stderr.readline()
    own_kafka.kill()
    assert "nobody listens there" in process.stderr.readline()
    own_kafka.restart()
    producer = KafkaProducer(bootstrap_servers=own_kafka.bootstrap)
    producer.send(topic, b"hello", b"yard").get(60)
    producer.close()
    assert process.stdout.readline().startswith("yard")
    assert "back after" in process.stderr.readline()


def test_lag(kafka, posestream, publish, topic):
    group = f"{topic}.readers"
    publish(*(frame(seq) for seq in range(5)))
    consumer = KafkaConsumer(
        topic, bootstrap_servers=kafka.bootstrap, group_id=group, auto_offset_reset="earliest",
        enable_auto_commit=False, client_id="reader-7",
    )  # fmt: skip
    deadline, read = time.monotonic() + 60, 0
    while read < 5 and time.monotonic() < deadline:
        read += sum(map(len, consumer.poll(200).values()))
    consumer.commit()
    publish(frame(5), frame(6))
    code, out, _ = finished(posestream("lag", group, "--json"))
    assert code == 0
    assert orjson.loads(out) == {
        "group": group, "topic": topic, "partition": 0, "end": 7, "committed": 5, "lag": 2,
        "member": "reader-7@127.0.0.1",
    }  # fmt: skip
    consumer.close()
    code, out, _ = finished(posestream("lag", COLUMNS="200"))
    lines = out.splitlines()
    mine = lines.index(f"group {group}, topic {topic}: 2 behind")
    assert lines[mine + 4].replace("│", " ").split() == ["0", "7", "5", "2", "-"]
