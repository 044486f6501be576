"""Frames of videos: seeking, rotation, colours, and files that are damaged or truncated."""

import logging
import random
from itertools import pairwise

import numpy as np
import pytest

from operators.decode import Decode
from operators.decoding.media_files import first_frame_size
from tests.support.videos.grey_videos import CORNERS, FPS, FRAMES, KINDS, grey, make_video, number_of, numbers


@pytest.fixture(scope="module")
def noisy():
    return [grey(i, noise=True) for i in range(FRAMES)]


def test_images_are_contiguous_for_any_width(tmp_path):
    path = make_video(tmp_path / "odd.mp4", [np.zeros((48, 70, 3), np.uint8)])
    assert [p.image.flags.c_contiguous for p in Decode().read("cam", str(path))] == [True]


@pytest.mark.parametrize("kind", KINDS)
def test_any_frame_is_sought_exactly(grey_videos, kind):
    for first in random.Random(1).sample(range(1, 50), 12):
        # Half a frame early, so that rounding of times does not matter.
        assert (
            numbers(grey_videos[kind], start_s=(first - 0.5) / FPS, max_frames=2)
            == [first, first + 1][: 50 - first]
        )


def test_seek_into_an_open_group_of_pictures(tmp_path):
    images = [grey(i) for i in range(FRAMES)]
    path = make_video(tmp_path / "open.ts", images, **{"x264-params": "open-gop=1:scenecut=0:b-adapt=0"})
    for first in range(1, 50):
        assert numbers(path, start_s=(first - 0.5) / FPS, max_frames=1) == [first]


@pytest.mark.parametrize(
    ("rotate", "mirror"), [(0, False), (90, False), (180, False), (270, False), (90, True)]
)
def test_rotated_videos_are_given_upright(tmp_path, rotate, mirror):
    upright = np.kron(CORNERS, np.ones((32, 48, 1), np.uint8))  # 64 high, 96 wide
    coded = upright[:, ::-1] if mirror else upright
    coded = np.ascontiguousarray(np.rot90(coded, -rotate // 90))  # players rotate it back, anticlockwise
    path = make_video(tmp_path / "turned.mp4", [coded], rotate=rotate, mirror=mirror)
    (packet,) = Decode().read("cam", str(path))
    assert packet.size == (96, 64)
    assert first_frame_size(str(path)) == (96, 64)
    np.testing.assert_allclose(packet.image[16::32, 24::48].astype(int), CORNERS, atol=12)
    assert packet.image.flags.c_contiguous


@pytest.mark.parametrize("matrix", [1, 5])  # BT.709, BT.601
@pytest.mark.parametrize("colour_range", [1, 2])  # limited, full
def test_colours_follow_the_matrix_and_range_of_the_video(tmp_path, matrix, colour_range):
    image = np.kron(CORNERS, np.ones((32, 32, 1), np.uint8))
    path = make_video(tmp_path / "c.mp4", [image], colour=(matrix, colour_range), crf="1")
    (packet,) = Decode().read("cam", str(path))
    np.testing.assert_allclose(packet.image[16::32, 16::32].astype(int), CORNERS, atol=6)


@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize(
    ("codec", "kind", "event"),
    [
        ("libx264", "mp4", "truncated"),
        ("mpeg4", "mp4", "truncated"),
        ("libx264", "mkv", "truncated"),
        ("libx264", "ts", "broken_frames"),
        ("mpeg4", "avi", "broken_frames"),
    ],
)
def test_a_truncated_file_gives_its_undamaged_frames(tmp_path, noisy, caplog, codec, kind, event, threads):
    path = make_video(tmp_path / f"whole.{kind}", noisy, codec)
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    decode = Decode(threads=threads)
    with caplog.at_level(logging.WARNING, "posestream.decode"):
        found = [number_of(p.image) for p in decode.read("cam", str(cut))]
    assert 20 < len(found) < 40
    assert found[:-1] == list(range(len(found) - 1))  # B frames before the last P frame may be cut off
    assert decode.counters[event] == 1
    (record,) = caplog.records
    assert f"{event} 1" in record.message
    assert record.message.startswith(f"cam: {len(found)} frames given; ")


@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_frames_are_left_out_and_counted(tmp_path, noisy, kind, threads):
    path = make_video(tmp_path / f"damaged.{kind[1]}", noisy, kind[0])
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1500] = np.random.default_rng(0).bytes(1500)
    path.write_bytes(data)
    decode = Decode(threads=threads)
    packets = list(decode.read("cam", str(path)))
    assert 30 <= len(packets) < 50
    assert [p.seq for p in packets] == list(range(len(packets)))
    assert all(b.pts_ns > a.pts_ns for a, b in pairwise(packets))
    counted = decode.counters["broken_frames"] + decode.counters["missing_frames"]
    # AVI has no times: a chunk that FFmpeg's reader skips leaves no gap.
    assert counted >= (1 if kind[1] == "avi" else 50 - len(packets))
