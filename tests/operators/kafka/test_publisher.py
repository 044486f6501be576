"""Publishing goes on when the broker, the sink's process, the disk or a message fails."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sink_frames import RUN, frame, people

from operators.kafka.publisher import pack
from operators.records.messages import encode
from operators.spool.spool import Spool
from tests.support.kafka.kafka_messages import CLIENTS, items, read_topic, seqs, wait_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("client", CLIENTS)
def test_messages_survive_a_broker_that_is_killed_and_restarted(
    own_kafka, open_sink, client, caplog, monkeypatch
):
    monkeypatch.setattr("operators.kafka.publisher.AWAY_S", 2)
    topic = f"test-killed-{client}-{time.time_ns()}"
    own_kafka.create_topic(topic)
    sink = open_sink(own_kafka, topic, client=client)
    slowest, n = 0.0, 0

    def publish(seconds):
        nonlocal slowest, n
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            start = time.monotonic()
            sink.process([frame(n, people(1, seed=n % 7))])
            slowest = max(slowest, time.monotonic() - start)
            n += 1
            time.sleep(0.002)

    publish(1)
    wait_until(lambda: sink.spool.waiting == 0)
    own_kafka.kill()
    publish(3)
    wait_until(lambda: sink.counters["outages"])
    assert sink.spool.waiting > 500
    own_kafka.start(wait=False)
    publish(1)
    wait_until(lambda: sink.spool.waiting == 0)
    publish(0.2)
    sink.close()
    found = seqs(read_topic(own_kafka, topic))
    assert list(dict.fromkeys(found)) == list(range(n))  # complete, and in order without duplicates
    assert len(found) - n <= 0.01 * n
    assert sink.counters["published"] == n
    assert slowest < 2  # `process` never waits for the broker; the margin is for a busy machine
    own = [record.getMessage() for record in caplog.records if record.name == "posestream.kafka_sink"]
    assert len(own) == 2  # one line when it goes away, one when it is back
    assert "nobody listens there" in own[0]
    assert "is back after" in own[1]


WRITER = """
import sys
from sink_frames import RUN, frame, people
from operators.kafka_sink import KafkaSink
topic, brokers, spool, log = sys.argv[1:]
sink = KafkaSink(topic=topic, brokers=brokers, spool_dir=spool, client="kafka-python")
sink.open(RUN._replace(live=True))
with open(log, "a", buffering=1) as log:
    for seq in range(10**6):
        sink.process([frame(seq, people(1))])
        log.write(f"{seq}\\n")
"""


@pytest.mark.parametrize("broker_away", [False, True])
def test_the_next_process_publishes_the_messages_of_a_killed_one(own_kafka, open_sink, tmp_path, broker_away):
    topic = f"test-successor-{broker_away}-{time.time_ns()}"
    own_kafka.create_topic(topic)
    log = tmp_path / "log"
    arguments = [topic, own_kafka.bootstrap, str(tmp_path / "spool"), str(log)]
    if broker_away:
        own_kafka.kill()
    path = os.pathsep.join(["tests/support", "."])
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments], env={**os.environ, "PYTHONPATH": path}
    )
    wait_until(lambda: log.exists() and log.read_text().count("\n") > 2000)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    written = log.read_text().count("\n")
    own_kafka.ensure_running()
    successor = open_sink(own_kafka, topic)
    successor.process([frame(0, None, stream="barn")])
    successor.flush_s = 60
    successor.close()
    messages = read_topic(own_kafka, topic)
    found = seqs(messages)
    assert set(found) >= set(range(written))
    assert list(dict.fromkeys(found)) == list(range(max(found) + 1))
    assert items(messages)[-1].stream == "barn"  # the killed process's messages come first
    assert successor.counters["spool_adopted"] >= (written if broker_away else 0)


def test_messages_too_large_for_the_broker_are_dropped(kafka, topic, open_sink, caplog):
    sink = open_sink(kafka, topic, image="raw")
    small, large = (
        np.zeros((40, 60, 3), np.uint8),
        np.zeros((700, 800, 3), np.uint8),
    )  # 1.7 MB; the broker accepts 1 MB
    sizes = [small, small, large, small, large, small, large, small]
    sink.process(
        [
            frame(seq, None, picture=image, size=(image.shape[1], image.shape[0]))
            for seq, image in enumerate(sizes)
        ]
    )
    wait_until(lambda: sink.spool.waiting == 0)
    sink.close()
    assert sink.counters["refused"] == 3
    assert list(dict.fromkeys(seqs(read_topic(kafka, topic)))) == [0, 1, 3, 5, 7]
    lines = [record.getMessage() for record in caplog.records if "max.message.bytes" in record.getMessage()]
    assert len(lines) == 1
    assert "1680" in lines[0]


def test_the_spool_keeps_to_its_cap_while_the_broker_is_away(open_sink, caplog):
    sink = open_sink("localhost:9", "poses", spool_mb=1)
    for seq in range(3000):
        sink.process([frame(seq, people(1))])
    counts = sink.counters
    kept = sink.spool.waiting
    sink.flush_s = 0.1
    sink.close()
    assert counts["spool_dropped"] > 0
    assert kept + counts["spool_dropped"] == 3000
    assert counts["outages"] == 1
    (line,) = [record.getMessage() for record in caplog.records if "are in the spool" in record.getMessage()]
    assert line.startswith(f"{kept} messages for poses")
    assert "the next run with this topic sends them" in line


def test_a_spool_that_cannot_be_written_does_not_stop_the_run(kafka, topic, open_sink, tmp_path, caplog):
    (tmp_path / "spool").write_text("no folder")
    sink = open_sink(kafka, topic)
    for seq in range(200):
        sink.process([frame(seq, None)])
    sink.close()
    assert seqs(read_topic(kafka, topic, 200)) == list(range(200))
    assert sink.counters["spool_failed"] == 1
    assert caplog.text.count("messages wait in memory") == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_a_damaged_segment_does_not_stop_the_run(kafka, topic, open_sink, tmp_path, client):
    spool = Spool(tmp_path / "spool", 400_000)
    for seq in range(100):
        spool.append([pack(encode(frame(seq, people(1)), RUN.id))])
    spool.close()
    path = sorted((tmp_path / "spool").glob("*/*.spool"))[1]
    data = bytearray(path.read_bytes())
    data[500] ^= 255
    path.write_bytes(data)
    sink = open_sink(kafka, topic, client=client)
    sink.process([frame(100, None)])
    sink.close()
    found = seqs(read_topic(kafka, topic))
    assert found == sorted(found)
    assert len(found) + sink.counters["spool_damaged"] == 101
    assert sink.counters["spool_damaged_segments"] == 1
