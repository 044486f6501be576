"""Of three Kafka nodes one is killed: sink and source continue with the others, and nothing is lost."""

import threading
import time

import pytest
from sink_frames import frame, people

from operators.kafka_sink import KafkaSink
from operators.kafka_source import KafkaSource
from pipeline.operator import RunInfo
from pipeline.packet import Packet

FRAMES, KILLED_AT = 300, 100
LIMIT_S = 90


@pytest.mark.timeout(300)  # three nodes take half a minute to start where all share two processors
def test_one_of_three_nodes_is_killed(kafka_cluster, tmp_path):
    topic = kafka_cluster.new_topic()
    run = RunInfo.new("graph")._replace(live=True)
    source = KafkaSource(brokers=kafka_cluster.bootstrap, group=f"{topic}.readers")
    source.open(run)
    seen = []

    def read():
        for item in source.read("topic", f"kafka://{kafka_cluster.bootstrap}/{topic}"):
            if isinstance(item, Packet):
                seen.append(item.seq)
                source.finished(item)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    sink = KafkaSink(
        topic=topic, brokers=kafka_cluster.bootstrap, spool_dir=str(tmp_path), client="kafka-python"
    )
    sink.open(run)
    for seq in range(FRAMES):
        if seq == KILLED_AT:
            wait_until(lambda: seen, "the first frame is read")
            leader(kafka_cluster, topic).kill()
        sink.process([frame(seq, people(1, seq))])
        time.sleep(0.005)
    wait_until(lambda: sink.counters["published"] == FRAMES, "all frames are published")
    wait_until(lambda: len(seen) >= FRAMES, "all frames are read")
    source.stop()
    reader.join(LIMIT_S)
    sink.close()
    assert seen == [*range(FRAMES)]  # in order; the source drops what was sent twice


def leader(cluster, topic):
    """The node that leads the topic's only partition."""
    from kafka import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    try:
        (described,) = admin.describe_topics([topic])
    finally:
        admin.close()
    return cluster.nodes[described["partitions"][0]["leader_id"] - 1]


def wait_until(condition, what):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT_S} s: {what}"
        time.sleep(0.05)
