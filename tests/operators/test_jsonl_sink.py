"""JSONL files: a line as soon as a frame arrives, and a header that is completed later."""

import json

import sink_frames

from operators.jsonl_sink import JsonlSink
from operators.reading.read import read
from pipeline.packet import Instances


def test_each_frame_is_written_at_once(tmp_path):
    sink = JsonlSink(str(tmp_path))
    sink.open(sink_frames.RUN)
    for count, packet in enumerate(sink_frames.varied(), start=2):
        sink.process([packet])
        lines = (tmp_path / "yard.jsonl").read_text().splitlines()
        assert len(lines) == count
        assert [json.loads(line).get("seq") for line in lines] == [None, *range(count - 1)]
    sink.close()


def test_a_skeleton_that_appears_later_is_added_to_the_header(tmp_path):
    sink = JsonlSink(str(tmp_path))
    sink.open(sink_frames.RUN)
    by_frame = [Instances.empty()] * 3 + [sink_frames.people(1), sink_frames.people(1, skeleton="coco17")]
    packets = [sink_frames.frame(seq, instances) for seq, instances in enumerate(by_frame)]
    sink.process(packets[:3])
    assert read(tmp_path / "yard.jsonl").header["skeletons"] == {}
    sink.process(packets[3:4])
    assert list(read(tmp_path / "yard.jsonl").header["skeletons"]) == ["blazepose33"]
    sink.process(packets[4:])
    sink.close()
    lines = (tmp_path / "yard.jsonl").read_text().splitlines()
    assert list(json.loads(lines[0])["skeletons"]) == ["blazepose33", "coco17"]
    assert [json.loads(line)["seq"] for line in lines[1:]] == [0, 1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["yard.jsonl"]
