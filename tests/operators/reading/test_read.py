"""Reading files back: shapes, tracks, folders, files that are cut off, and files that are refused."""

import logging

import numpy as np
import pytest
import sink_frames

from operators.jsonl_sink import JsonlSink
from operators.reading.read import read, read_folder
from pipeline.errors import SourceError

HEADER = b'{"schema":"posestream/1","run":"r","stream":"yard","skeletons":{},"units":{}}\n'
LINE = b'{"stream":"yard","seq":0,"pts_ns":0,"captured_ns":0,"size":[64,48],"instances":[]}\n'
TWO_SKELETONS = LINE.replace(b"[]}", b'[{"skeleton":"coco17"},{"skeleton":"ap10k"}]}')


@pytest.fixture
def recording(tmp_path):
    """Ten frames: track 1 in all of them, track 2 in the even ones."""
    sink = JsonlSink(str(tmp_path))
    sink.open(sink_frames.RUN)
    sink.process([sink_frames.frame(seq, sink_frames.people(2 - seq % 2, seq)) for seq in range(10)])
    sink.end_stream("yard")
    sink.close()
    return read(tmp_path / "yard.jsonl")


def test_arrays_have_the_documented_shapes(recording):
    assert len(recording) == 10
    shapes = {name: array.shape for name, array in recording.fields.items()}
    assert shapes == {
        "boxes": (15, 4), "scores": (15,), "labels": (15,), "track_ids": (15,), "keypoints": (15, 33, 2),
        "keypoint_scores": (15, 33), "keypoints_3d": (15, 33, 3),
    }  # fmt: skip
    assert recording.detected is None
    assert recording.size.tolist() == [[640, 480]] * 10
    assert recording.frame.tolist() == sorted(recording.frame.tolist())


@pytest.mark.parametrize(("track_id", "frames"), [(1, list(range(10))), (2, [0, 2, 4, 6, 8])])
def test_one_track(recording, track_id, frames):
    one = recording.track(track_id)
    assert one.frame.tolist() == frames
    assert one.pts_ns[one.frame].tolist() == [33_366_667 * seq for seq in frames]
    assert one.keypoints.shape == (len(frames), 33, 2)
    np.testing.assert_array_equal(one.keypoints[-1], recording.keypoints[-2 if frames[-1] == 8 else -1])
    assert len(one) == 10


def test_an_unknown_track_is_refused_with_the_known_ones(recording):
    with pytest.raises(ValueError, match="yard has no track 7; there are: 1, 2"):
        recording.track(7)


def test_a_folder_is_read_as_its_streams(tmp_path):
    sink = JsonlSink(str(tmp_path))
    sink.open(sink_frames.RUN)
    sink.process([sink_frames.frame(0, None, "yard"), sink_frames.frame(0, None, "barn")])
    sink.close()
    assert {name: found.stream for name, found in read_folder(tmp_path).items()} == {
        "barn": "barn",
        "yard": "yard",
    }


def test_only_a_last_line_that_is_cut_off_is_lost(tmp_path, caplog):
    path = tmp_path / "yard.jsonl"
    path.write_bytes(HEADER + LINE + LINE.replace(b'"seq":0', b'"seq":1') + LINE[:50])
    with caplog.at_level(logging.WARNING):
        assert read(path).seq.tolist() == [0, 1]
    assert "line 4 is cut off; the 3 lines before it are complete" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "expected a header with schema 'posestream/1', found an empty file"),
        ("a.jsonl", LINE, "expected a header with schema 'posestream/1', found b'"),
        ("a.jsonl", b"[1]\n", "expected a header"),
        ("a.jsonl", HEADER.replace(b"/1", b"/9"), "expected schema 'posestream/1', found 'posestream/9'"),
        ("a.jsonl", HEADER + LINE[:50] + b"\n" + LINE, "line 2: "),
        ("a.jsonl", HEADER + b"{}\n", "line 2: not a record of posestream/1: KeyError 'stream'"),
        ("a.jsonl", HEADER + TWO_SKELETONS, "line 2: instances of one frame have several skeletons"),
        ("a.json", b'{"images": []}', "expected a JSON array of COCO results"),
        ("a.json", b"[", "expected a JSON array of COCO results"),
        ("a.parquet", b"PAR1", "expected what parquet_sink writes"),
        ("a.mp4", b"", "holds a picture, not keypoints; read the .jsonl beside it"),
        ("a.csv", b"", "expected .jsonl, .json .COCO. or .parquet, found .csv"),
    ],
)
def test_other_files_are_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda folder: read(folder / "none.jsonl"), "no file"),
        (lambda folder: read(folder), "is a folder; use read_folder for all streams in it"),
        (lambda folder: read_folder(folder), "expected .jsonl files, found none"),
        (
            lambda folder: (folder / "a.parquet").mkdir() or read(folder / "a.parquet"),
            "expected part-00000.parquet",
        ),
    ],
)
def test_folders_without_results_are_refused(ask, message, tmp_path):
    with pytest.raises(SourceError, match=message):
        ask(tmp_path)
