"""Videos: times, sizes, drawings, encoders, and files cut to what can be played."""

import logging
import struct

import av
import numpy as np
import pytest
import sink_frames

from operators.files import mp4_writer as mp4
from operators.files.draw import SIDES
from operators.files.mp4_writer import cut_to_complete_fragments
from operators.video_sink import VideoSink
from pipeline.errors import SinkError
from pipeline.packet import Instances

KNEE = Instances(
    skeleton="coco17",
    keypoints=np.where(np.arange(17)[:, None] == 13, [40, 30], np.nan).astype(np.float32)[None],
    keypoint_scores=np.full((1, 17), 0.9, np.float32),
)


def picture(width, height, level=90):
    return np.full((height, width, 3), level, np.uint8)


def write(folder, packets, **options):
    sink = VideoSink(str(folder), **options)
    sink.open(sink_frames.RUN)
    for packet in packets:
        assert list(sink.process([packet])) == [packet]
    sink.end_stream("yard")
    sink.close()


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.codec_context.name, [
            (round(frame.pts * frame.time_base * 1_000_000_000), frame.to_ndarray(format="rgb24"))
            for frame in container.decode(stream)
        ]


@pytest.mark.parametrize(
    "pts_ns",
    [
        [i * 33_366_667 for i in range(70)],
        [0, 16_666_667, 50_000_000, 1_200_000_000, 1_216_666_667, 9_000_000_000, 90_000_000_000],
        [1_000_000_000_000 + i * 40_000_000 for i in range(5)],
    ],
    ids=["29.97 fps", "frames dropped", "clock starts late"],
)
def test_frames_keep_their_times(pts_ns, tmp_path):
    frames = [
        sink_frames.frame(i, None, pts_ns=t, picture=picture(64, 48, 3 * i)) for i, t in enumerate(pts_ns)
    ]
    write(tmp_path, frames)
    codec, found = decoded(tmp_path / "yard.mp4")
    assert codec == "h264"
    assert [t for t, _ in found] == pytest.approx([t - pts_ns[0] for t in pts_ns], abs=8_400)  # half a tick
    for before, (_, after) in zip(frames, found, strict=True):
        assert abs(after.mean() - before.image.mean()) < 4


@pytest.mark.parametrize(("width", "height"), [(64, 48), (65, 49), (64, 49), (640, 361)])
def test_drawings_are_in_the_picture_and_odd_sizes_are_made_even(width, height, tmp_path):
    images = [picture(width, height) for _ in range(3)]
    by_frame = [KNEE, KNEE.replace(keypoint_scores=np.zeros((1, 17), np.float32)), None]
    write(tmp_path, [sink_frames.frame(i, by_frame[i], picture=images[i]) for i in range(3)], quality=10)
    _, (drawn, hidden, plain) = decoded(tmp_path / "yard.mp4")
    assert drawn[1].shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(drawn[1][30, 40].astype(int) - SIDES["left"]).max() < 60  # colour has half the resolution
    assert np.abs(hidden[1].astype(int) - 90).max() < 6
    assert np.abs(plain[1].astype(int) - 90).max() < 6
    assert all((image == 90).all() for image in images)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"picture": picture(80, 60)}, "yard frame 2: the picture is 80x60, was 64x48; a new file begins"),
        (
            {"pts_ns": -5_000_000_000},
            "yard frame 2: the clock is at -5.000 s, was at 0.033 s; a new file begins",
        ),
    ],
    ids=["size", "clock"],
)
def test_a_new_size_or_clock_begins_a_new_file(change, reason, tmp_path, caplog):
    frames = [sink_frames.frame(seq, None, picture=picture(64, 48)) for seq in range(2)]
    other = frames[0].replace(**change)
    frames += [other.replace(seq=2), other.replace(seq=3, pts_ns=other.pts_ns + 40_000_000)]
    with caplog.at_level(logging.WARNING):
        write(tmp_path, frames)
    assert [len(decoded(tmp_path / name)[1]) for name in ("yard.mp4", "yard.2.mp4")] == [2, 2]
    assert [message.startswith(reason) for message in caplog.messages] == [True]


def test_a_clock_that_stands_still_loses_no_frame(tmp_path):
    times = [0, 0, 40_000_000, 39_000_000, 80_000_000]
    write(
        tmp_path, [sink_frames.frame(i, None, pts_ns=t, picture=picture(64, 48)) for i, t in enumerate(times)]
    )
    found = [t for t, _ in decoded(tmp_path / "yard.mp4")[1]]
    assert found == sorted(set(found))
    assert found == pytest.approx(times, abs=1_100_000)


def test_a_stream_without_frames_has_a_valid_file(tmp_path):
    write(tmp_path, [])
    assert decoded(tmp_path / "yard.mp4")[1] == []


@pytest.mark.parametrize("encoders", [["mpeg4"], []], ids=["mpeg4", "none"])
def test_without_h264_another_encoder_is_used_or_refused(encoders, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(mp4, "ENCODERS", ("no-such-encoder", *encoders))
    frames = [sink_frames.frame(seq, KNEE, picture=picture(65, 49)) for seq in range(5)]
    if not encoders:
        with pytest.raises(SinkError, match="FFmpeg has none of no-such-encoder"):
            write(tmp_path, frames)
        return
    write(tmp_path, frames)
    codec, found = decoded(tmp_path / "yard.mp4")
    assert (codec, len(found), len(caplog.messages)) == ("mpeg4", 5, 1)


@pytest.mark.parametrize("end", ["in the header", "in a fragment", "after a fragment"])
def test_a_file_is_cut_to_its_complete_fragments(end, tmp_path):
    write(tmp_path, [sink_frames.frame(seq, None, picture=picture(64, 48)) for seq in range(100)])
    path = tmp_path / "yard.mp4"
    data = path.read_bytes()
    boxes, start = [], 0
    while start < len(data):
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        boxes.append((kind, start))
        start += length
    fragments = [start for kind, start in boxes if kind == b"moof"]
    assert len(fragments) >= 3
    if end == "in the header":
        path.write_bytes(data[: boxes[1][1] + 20])
        assert cut_to_complete_fragments(path) == 0
        assert not path.exists()
        return
    path.write_bytes(data[: fragments[2] + (500 if end == "in a fragment" else 0)])
    kept = cut_to_complete_fragments(path)
    assert path.stat().st_size == fragments[2]
    assert kept == len(decoded(path)[1]) > 30
