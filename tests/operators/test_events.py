"""What happens to a stream on its way, as operators and sinks see it: events, epochs, jumps, new sizes."""

import time

import av
import numpy as np
import pytest
import sink_frames
import toys

from operators.coco_sink import CocoSink
from operators.jsonl_sink import JsonlSink
from operators.parquet_sink import ParquetSink
from operators.reading.read import read
from operators.smooth import Smooth
from operators.sync import Sync
from operators.track import Track
from operators.video_sink import VideoSink
from pipeline.graph import check_graph
from pipeline.operator import Operator, Source
from pipeline.packet import Event, Packet
from pipeline.run import Run

S = 1_000_000_000


class Rough(Source):
    """Frames of a camera that has a bad day; the uri says which."""

    def read(self, stream, uri):
        times = [0, 1, 2, 2, 1, 5000, 5001, -7, -6]  # in periods of 40 ms
        for seq, period in enumerate(times if uri == "clock" else range(9)):
            size = (80, 60) if uri == "size" and 3 <= seq < 6 else (64, 48)
            if uri == "events" and seq == 4:
                yield Event(stream, "lost", S, {"reason": "stalled"})
                yield Event(stream, "back", 3 * S, {"away_s": 2.0}, resets=True)
            image = np.full((size[1], size[0], 3), 20 * seq, np.uint8)
            yield Packet(stream, seq, period * 40_000_000, time.time_ns(), size, image)


class Person(Operator):
    """One person, always in the same place."""

    needs = ("image",)
    provides = ("boxes", "scores", "labels", "keypoints", "keypoint_scores", "keypoints_3d")

    def process(self, packets):
        found = sink_frames.people(1).without("track_ids").replace(scores=np.full(1, 0.9, np.float32))
        return [packet.replace(instances=found) for packet in packets]


REGISTRY = {
    **toys.REGISTRY, "rough": Rough, "person": Person, "track": Track, "smooth": Smooth, "sync": Sync,
    "jsonl": JsonlSink, "coco": CocoSink, "parquet": ParquetSink, "video": VideoSink,
}  # fmt: skip


def graph(folder, *, workers=1, synced=False):
    toys.graph()  # empties the lists in which toys collect
    last = "sync" if synced else "smooth"
    nodes = {
        "rough": {"op": "rough"},
        "person": {"op": "person", "after": "rough", "on_full": "block"},
        "track": {"op": "track", "after": "person", "workers": workers},
        "smooth": {"op": "smooth", "after": "track", "keypoints": True},
        "collect": {"op": "collect", "after": last},
        **{op: {"op": op, "dir": str(folder), "after": last} for op in ("jsonl", "coco", "parquet", "video")},
    }
    if synced:
        nodes["sync"] = {"op": "sync", "after": "smooth", "incomplete": "pass"}
    return check_graph({"name": "rough", "graph": nodes}, REGISTRY)


def frames_in(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def until(condition, within_s=20):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("day", "synced", "videos"),
    [("clock", False, 2), ("size", False, 3), ("events", False, 1), ("clock", True, 2)],
)
def test_no_operator_or_sink_falls_over(day, synced, videos, tmp_path):
    run = Run(graph(tmp_path, synced=synced), {"yard": day})
    run.start()
    stats = run.finish()
    assert (stats.finished, stats.dropped) == (9, 0)
    assert read(tmp_path / "yard.jsonl").seq.tolist() == list(range(9))
    assert read(tmp_path / "yard.parquet").seq.tolist() == list(range(9))
    assert read(tmp_path / "yard.coco.json").seq.tolist() == list(range(9))
    files = sorted(tmp_path.glob("*.mp4"))
    assert len(files) == videos
    assert sum(map(frames_in, files)) == 9


def test_events_are_lines_in_their_places_and_are_read_back(tmp_path):
    run = Run(graph(tmp_path), {"yard": "events"})
    run.start()
    run.finish()
    lines = (tmp_path / "yard.jsonl").read_bytes().splitlines()
    assert lines[5] == b'{"stream":"yard","event":"lost","at_ns":1000000000,"reason":"stalled"}'
    assert lines[6].startswith(b'{"stream":"yard","event":"back","at_ns":3000000000,"resets":true,')
    recording = read(tmp_path / "yard.jsonl")
    assert [(e.kind, e.resets, e.details) for e in recording.events] == [
        ("lost", False, {"reason": "stalled"}), ("back", True, {"away_s": 2.0})
    ]  # fmt: skip
    assert np.unique(recording.track_ids[recording.frame < 4]).tolist() == [1]
    assert np.unique(recording.track_ids[recording.frame >= 4]).tolist() == [2]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_source_that_is_added_again_goes_on_with_new_ids_in_a_new_epoch(workers, tmp_path):
    run = Run(graph(tmp_path, workers=workers), live=True, keep_open=True)
    run.start()
    # Others that come and go in between would take its worker.
    for source in ("a", "b", "c", "a", "b", "a"):
        before = len(toys.Collect.ended)
        run.add_source(source, "size" if source == "c" else "plain")
        until(lambda n=before: len(toys.Collect.ended) > n and not run.sources())
    run.stop()
    assert run.finish().dropped == 0
    packets = [packet for packet in toys.Collect.packets if packet.stream == "a"]
    assert [packet.seq for packet in packets] == list(range(27))
    assert [packet.epoch for packet in packets] == [0] * 9 + [1] * 9 + [2] * 9
    ids = [packet.instances.track_ids.tolist() for packet in packets]
    assert ids == [[1]] * 9 + [[2]] * 9 + [[3]] * 9
    # Sinks: what was written is not overwritten, and each file is whole.
    for suffix in ("jsonl", "parquet", "coco.json"):
        parts = [read(tmp_path / f"{name}.{suffix}") for name in ("a", "a.2", "a.3")]
        assert [part.seq.tolist() for part in parts] == [list(range(n, n + 9)) for n in (0, 9, 18)]
        if suffix != "coco.json":
            assert [part.epoch.tolist() for part in parts] == [[epoch] * 9 for epoch in range(3)]
    assert [frames_in(tmp_path / f"{name}.mp4") for name in ("a", "a.2", "a.3")] == [9, 9, 9]


@pytest.mark.parametrize(("sink", "name"), [(JsonlSink, "yard.jsonl"), (ParquetSink, "yard.parquet")])
def test_epoch_and_moment_are_read_back(sink, name, tmp_path):
    packets = [sink_frames.frame(0, None), sink_frames.frame(1, None, epoch=3, moment_ns=7 * S)]
    opened = sink(str(tmp_path))
    opened.open(sink_frames.RUN)
    opened.process(packets)
    opened.end_stream("yard")
    recording = read(tmp_path / name)
    assert recording.epoch.tolist() == [0, 3]
    assert recording.moment_ns.tolist() == [-1, 7 * S]
    assert list(recording.packets()) == packets
