"""`decode` in live runs: several cameras in a graph, and the other kinds of source."""

import time

import cv2
import pytest
import toys

from operators.decode import Decode
from pipeline.graph import check_graph
from pipeline.run import Run
from tests.support.videos.live_reader import LiveReader, live_decode, until
from tests.support.videos.rtsp_fixtures import FPS, SIZES, make_clip, number_of, numbered

pytestmark = pytest.mark.slow


def test_a_file_is_played_at_its_own_pace(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", SIZES["small"], frames=FPS)
    start_s = time.monotonic()
    packets = list(live_decode(loop=2).read("yard", str(path)))
    assert time.monotonic() - start_s > 2 - 2 / FPS
    assert [number_of(p.image) for p in packets] == list(range(FPS)) * 2
    span_s = (packets[-1].captured_ns - packets[0].captured_ns) / 1e9
    assert span_s > (packets[-1].pts_ns - packets[0].pts_ns) / 1e9 - 0.1


def live_graph(*nodes):
    """A chain of `decode`, these nodes and `collect`."""
    toys.Collect.packets.clear()
    toys.Collect.ended.clear()
    spec = {"decode": {"op": "decode", "stall_s": 1}}
    for name, node in [*nodes, ("collect", {"op": "collect"})]:
        spec[name] = {"after": list(spec)[-1], **node}
    return check_graph({"name": "live", "graph": spec}, {**toys.REGISTRY, "decode": Decode})


def test_one_bad_camera_never_stops_the_others(rtsp):
    sources = {"good": rtsp.url, "gone": "rtsp://127.0.0.1:1/x", "wrong": "foo://x/y"}
    run = Run(live_graph(), sources, live=True, keep_open=True)
    run.start()
    until(lambda: sum(p.stream == "good" for p in list(toys.Collect.packets)) > FPS, "frames")
    assert {s.name: s.lost for s in run.stats().streams} == {"good": False, "gone": True, "wrong": False}
    assert set(run.sources()) == {"good", "gone"}
    run.stop()
    stats = run.finish()
    assert {s.name: s.counters.get("outages") for s in stats.streams} == {
        "good": None,
        "gone": 1,
        "wrong": None,
    }


def test_under_overload_frames_stay_recent_and_drops_are_counted(rtsp):
    run = Run(live_graph(("slow", {"op": "slow", "ms": 150})), {"yard": rtsp.url}, live=True, max_age_s=1)
    run.start()
    until(lambda: len(toys.Collect.packets) > 15, "frames")
    run.stop()
    stats = run.finish()
    (stream,) = stats.streams
    dropped = sum(sum(edge.dropped.values()) for edge in stats.edges)
    assert stream.read == stream.finished + dropped
    assert dropped > 0
    assert stream.age_p99_ms < 1500


def test_a_topic_is_read_by_kafka_source(kafka, topic):
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    for number in range(3):
        image = cv2.imencode(".png", numbered(number, 320, 240))[1].tobytes()
        producer.send(topic, image, key=b"yard").get(20)
    producer.close()
    with LiveReader(f"kafka://{kafka.bootstrap}/{topic}?group=test") as reader:
        until(lambda: len(reader.packets) == 3, "packets", reader)
        reader.decode.finished(reader.packets[-1])
    reader.decode.close()
    assert [(p.stream, p.seq, number_of(p.image)) for p in reader.packets] == [
        ("yard", i, i) for i in range(3)
    ]
