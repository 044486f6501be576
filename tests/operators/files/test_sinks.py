"""What all sinks that write files share: names of files, reading back, rotation, folders that are refused."""

from pathlib import Path

import numpy as np
import pytest
import sink_frames

from operators.coco_sink import CocoSink
from operators.files.sink_files import safe_name
from operators.jsonl_sink import JsonlSink
from operators.parquet_sink import ParquetSink
from operators.reading.read import read
from operators.video_sink import VideoSink
from pipeline.errors import SinkError

SINKS = [(JsonlSink, "jsonl"), (CocoSink, "coco.json"), (ParquetSink, "parquet"), (VideoSink, "mp4")]
PICTURE = np.zeros((48, 64, 3), np.uint8)


def write(sink, packets):
    """Open the sink, process the packets, end their streams, and close it."""
    sink.open(sink_frames.RUN)
    assert list(sink.process(packets)) == packets
    for stream in dict.fromkeys(packet.stream for packet in packets):
        assert list(sink.end_stream(stream)) == []
    sink.close()


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        ("yard", "yard"),
        ("cam-2", "cam-2"),
        ("Küche 1", "Küche_1-"),
        ("rtsp://a:b@10.0.0.1/live", "rtsp___a_b@10.0.0.1_live-"),
        ("../../etc/passwd", "_.._etc_passwd-"),
        ("..", "stream-"),
        ("", "stream-"),
        ("-rf", "rf-"),
        ("cam.2", "cam.2-"),
        ("a\nb\0c", "a_b_c-"),
        ("x" * 300, "x" * 160 + "-"),
        ("é" * 300, "é" * 80 + "-"),
    ],
)
def test_file_names_are_safe(stream, name):
    safe = safe_name(stream)
    assert safe == name if not name.endswith("-") else safe.startswith(name) and len(safe) == len(name) + 8
    assert Path(safe).name == safe


def test_similar_stream_names_get_different_files(tmp_path):
    streams = ["a/b", "a:b", "a_b", "a b"]
    write(JsonlSink(str(tmp_path)), [sink_frames.frame(0, None, stream) for stream in streams])
    assert sorted(read(path).stream for path in tmp_path.iterdir()) == sorted(streams)


@pytest.mark.parametrize(("sink", "suffix"), SINKS)
def test_a_stream_that_begins_again_gets_another_file(sink, suffix, tmp_path):
    sink = sink(str(tmp_path / "new" / "folder"))
    sink.open(sink_frames.RUN)
    for seq in range(2):
        sink.process([sink_frames.frame(seq, None, picture=PICTURE)])
        sink.end_stream("yard")
    sink.close()
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {
        f"yard.{suffix}",
        f"yard.2.{suffix}",
    }


@pytest.mark.parametrize(("sink", "suffix"), [case for case in SINKS if case[1] != "mp4"])
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "only closed"])
def test_results_are_read_back(sink, suffix, ended, tmp_path):
    packets = sink_frames.varied()
    sink = sink(str(tmp_path))
    sink.open(sink_frames.RUN)
    for packet in packets:
        assert list(sink.process([packet])) == [packet]
    if ended:
        sink.end_stream("yard")
    sink.close()
    recording = read(tmp_path / f"yard.{suffix}")
    assert recording.stream == "yard"
    if suffix == "coco.json":
        expected = [packet for packet in packets if packet.instances]
        index = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
        assert recording.skeleton == "coco17"
    else:
        expected, index = packets, slice(None)
        assert recording.skeleton == "blazepose33"
        assert recording.header["run"] == sink_frames.RUN.id
        assert list(recording.header["skeletons"]) == ["blazepose33"]
    found = list(recording.packets())
    assert [packet.seq for packet in found] == [packet.seq for packet in expected]
    for before, after in zip(expected, found, strict=True):
        if suffix != "coco.json":
            assert after.replace(instances=None) == before.replace(instances=None)
        assert (after.instances is None) == (before.instances is None)
        if not before.instances:
            assert not after.instances
            continue
        wanted = before.instances
        assert after.instances.labels.tolist() == wanted.labels.tolist()
        assert after.instances.track_ids.tolist() == wanted.track_ids.tolist()
        np.testing.assert_allclose(after.instances.scores, wanted.scores, atol=6e-5)
        np.testing.assert_allclose(after.instances.boxes, wanted.boxes, atol=0.0151)
        np.testing.assert_allclose(after.instances.keypoints, wanted.keypoints[:, index], atol=0.0051)
        if suffix != "coco.json":
            np.testing.assert_allclose(after.instances.keypoints_3d, wanted.keypoints_3d, atol=6e-5)


@pytest.mark.parametrize(("sink", "suffix"), [case for case in SINKS if case[1] != "mp4"])
def test_a_stream_without_frames_has_a_valid_file(sink, suffix, tmp_path):
    sink = sink(str(tmp_path))
    sink.open(sink_frames.RUN)
    sink.end_stream("yard")
    sink.close()
    assert len(read(tmp_path / f"yard.{suffix}")) == 0


@pytest.mark.parametrize(("sink", "suffix"), SINKS)
@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "file",
            r"cannot write .*/file: file exists; expected a folder; remove the file or choose another `dir`",
        ),
        ("file/below", r"cannot write .*/below: not a directory; expected a folder"),
        ("/proc/nowhere", r"cannot write /proc/nowhere: no such file"),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_before_the_first_frame(
    sink, suffix, where, message, tmp_path
):
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=message):
        sink(str(tmp_path / where)).open(sink_frames.RUN)


@pytest.mark.parametrize(("sink", "suffix"), SINKS)
def test_files_of_an_earlier_run_are_replaced_except_in_live_runs(sink, suffix, tmp_path):
    for live in (True, False, True):
        opened = sink(str(tmp_path))
        opened.open(sink_frames.RUN._replace(live=live))
        opened.process([sink_frames.frame(0, None, picture=PICTURE)])
        opened.end_stream("yard")
        opened.close()
    assert {path.name for path in tmp_path.iterdir()} == {f"yard.{suffix}", f"yard.2.{suffix}"}


@pytest.mark.parametrize("options", [{"rotate_min": 1}, {"rotate_mb": 0.004}])
@pytest.mark.parametrize(("sink", "suffix"), [(JsonlSink, "jsonl"), (VideoSink, "mp4")])
def test_rotated_files_are_named_by_time(sink, suffix, options, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), np.uint8)
    start = 1_784_000_000 * 10**9
    for _ in range(2):  # the second run has the same times, and must overwrite nothing
        opened = sink(str(tmp_path), **options)
        opened.open(sink_frames.RUN)
        for seq in range(60):  # every 5 s
            found = sink_frames.people(1, seq)
            times = {"captured_ns": start + seq * 5 * 10**9, "pts_ns": seq * 5 * 10**9}
            opened.process([sink_frames.frame(seq, found, picture=noise[seq], **times)])
        opened.end_stream("yard")
        opened.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 10 if "rotate_min" in options else len(names) >= 6
    assert {f"yard.20260714T033320Z.{suffix}", f"yard.20260714T033320Z.2.{suffix}"} <= set(names)
    if suffix == "jsonl":
        parts = [read(tmp_path / name) for name in names]
        assert sorted(seq for part in parts for seq in part.seq) == sorted([*range(60), *range(60)])
        assert {part.skeleton for part in parts} == {"blazepose33"}
        assert {part.header["stream"] for part in parts} == {"yard"}
    else:
        assert sum(sink_frames.count_frames(tmp_path / name) for name in names) == 120
