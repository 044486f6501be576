"""Videos are made here: 64x48, the grey of frame i is 20 + 4 i, so that a picture tells its number."""

import gc
import logging
import random
import threading
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from operators.decode import Decode
from operators.decoding.media_files import first_frame_size, read_header
from pipeline.errors import OptionError, SourceError

TASKS = Path("/proc/self/task")
WIDTH, HEIGHT, FPS = 64, 48, 30
MS = Fraction(1, 1000)
# Corners of a picture: red, green / blue, white, in RGB.
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)


def grey(number, noise=False):
    image = np.full((HEIGHT, WIDTH, 3), 20 + 4 * number, np.uint8)
    if noise:  # makes packets big enough to be worth damaging; the left half still tells the number
        rng = np.random.default_rng(number)
        image[:, WIDTH // 2 :] = rng.integers(0, 255, (HEIGHT, WIDTH // 2, 3))
    return image


def number_of(image):
    return round((float(image[:, : WIDTH // 4].mean()) - 20) / 4)


def make_video(path, images, codec="libx264", pts_ms=None, rotate=None, mirror=False, colour=None, **options):
    movflags = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=movflags) as container:
        video = container.add_stream(codec, rate=FPS, options=options)
        video.width, video.height = images[0].shape[1], images[0].shape[0]
        video.pix_fmt = "yuv444p" if codec == "libx264" and colour else "yuv420p"
        video.gop_size, video.max_b_frames, video.bit_rate = 12, 2, 2_000_000
        if colour:
            video.colorspace, video.color_range = colour
        if pts_ms:
            video.codec_context.time_base = MS
        if rotate is not None:
            video.set_display_rotation(rotate, hflip=mirror)
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            if colour:
                frame = frame.reformat(
                    format=video.pix_fmt, dst_colorspace=colour[0], dst_color_range=colour[1]
                )
            frame.pts = pts_ms[index] if pts_ms else index
            frame.time_base = MS if pts_ms else Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def numbers(path, **options):
    return [number_of(packet.image) for packet in Decode(**options).read("cam", str(path))]


KINDS = [("libx264", "mp4"), ("libx264", "mkv"), ("libx264", "ts"), ("mpeg4", "mp4"), ("mpeg4", "avi")]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    images = [grey(i) for i in range(50)]
    return {(codec, kind): make_video(folder / f"{codec}.{kind}", images, codec) for codec, kind in KINDS} | {
        "noisy": [grey(i, noise=True) for i in range(50)]
    }


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_once_in_order(videos, kind, threads):
    packets = list(Decode(threads=threads).read("cam", str(videos[kind])))
    assert [number_of(p.image) for p in packets] == list(range(50))
    assert [p.seq for p in packets] == list(range(50))
    times = np.array([p.pts_ns for p in packets]) - packets[0].pts_ns
    np.testing.assert_allclose(times, np.arange(50) * 1e9 / FPS, atol=1e6)
    first = packets[0]
    assert (first.stream, first.size, first.image.shape) == ("cam", (WIDTH, HEIGHT), (HEIGHT, WIDTH, 3))
    assert first.image.dtype == np.uint8
    assert all(p.image.flags.c_contiguous for p in packets)


def test_images_are_contiguous_whatever_the_width(tmp_path):
    path = make_video(tmp_path / "odd.mp4", [np.zeros((48, 70, 3), np.uint8)])
    assert [p.image.flags.c_contiguous for p in Decode().read("cam", str(path))] == [True]


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_variable_rate_keeps_true_times(tmp_path, kind):
    pts_ms = [100, 133, 200, 210, 500, 501, 1500]
    path = make_video(tmp_path / f"v.{kind}", [grey(i) for i in range(7)], pts_ms=pts_ms)
    packets = list(Decode().read("cam", str(path)))
    start_ms = packets[0].pts_ns // 10**6  # MP4 muxers move the first frame to zero
    assert [p.pts_ns - packets[0].pts_ns for p in packets] == [(t - 100) * 10**6 for t in pts_ms]
    assert start_ms in (0, 100)
    # By the clock, not by counting: at 5 a second, the frames that open a new 200 ms.
    assert numbers(path, fps=5) == [0, 4, 6]


def test_frames_without_pts_get_derived_times(tmp_path):
    path = make_video(tmp_path / "bare.h264", [grey(i) for i in range(20)])
    decode = Decode()
    packets = list(decode.read("cam", str(path)))
    assert [number_of(p.image) for p in packets] == list(range(20))
    assert all(b.pts_ns > a.pts_ns for a, b in pairwise(packets))
    assert decode.counters["frames_without_pts"] == 20


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({"stride": 7}, list(range(0, 50, 7))),
        ({"fps": 15}, list(range(0, 50, 2))),
        ({"fps": 10}, list(range(0, 50, 3))),
        ({"fps": 12}, [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30, 33, 35, 38, 40, 43, 45, 48]),
        ({"fps": 100}, list(range(50))),
        ({"max_frames": 3}, [0, 1, 2]),
        ({"start_s": 1.0, "max_frames": 3}, [30, 31, 32]),
        ({"start_s": 1.0, "stop_s": 1.2, "stride": 2}, [30, 32, 34]),
        ({"start_s": 0.59, "stop_s": 0.61}, [18]),
        ({"stop_s": 0.1}, [0, 1, 2]),
        ({"loop": 2, "start_s": 1.5}, [45, 46, 47, 48, 49] * 2),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_chosen_frames(videos, kind, options, want):
    path = videos[kind]
    assert numbers(path, **options) == want
    assert Decode(**options).frames_expected(str(path)) == len(want)


@pytest.mark.parametrize("kind", KINDS)
def test_seek_is_exact_everywhere(videos, kind):
    for first in random.Random(1).sample(range(1, 50), 12):
        # half a frame early, so that rounded times do not decide
        assert (
            numbers(videos[kind], start_s=(first - 0.5) / FPS, max_frames=2)
            == [first, first + 1][: 50 - first]
        )


def test_seek_into_an_open_group_of_pictures(tmp_path):
    images = [grey(i) for i in range(50)]
    path = make_video(tmp_path / "open.ts", images, **{"x264-params": "open-gop=1:scenecut=0:b-adapt=0"})
    for first in range(1, 50):
        assert numbers(path, start_s=(first - 0.5) / FPS, max_frames=1) == [first]


@pytest.mark.parametrize("kind", KINDS)
def test_loop_goes_on_in_time_and_number(videos, kind):
    packets = list(islice(Decode(loop=0, stride=5).read("cam", str(videos[kind])), 35))
    assert [number_of(p.image) for p in packets] == [*range(0, 50, 5)] * 3 + [0, 5, 10, 15, 20]
    assert [p.seq for p in packets] == list(range(35))
    steps = np.diff([p.pts_ns for p in packets])
    np.testing.assert_allclose(steps, 5e9 / FPS, atol=2e6)


def test_captured_ns_comes_from_the_clock(videos):
    packets = Decode(max_frames=3).read("cam", str(videos["libx264", "mp4"]), clock=iter([7, 8, 9]).__next__)
    assert [p.captured_ns for p in packets] == [7, 8, 9]


@pytest.mark.parametrize(
    ("rotate", "mirror"), [(0, False), (90, False), (180, False), (270, False), (90, True)]
)
def test_rotated_videos_come_upright(tmp_path, rotate, mirror):
    upright = np.kron(CORNERS, np.ones((32, 48, 1), np.uint8))  # 64 high, 96 wide
    coded = upright[:, ::-1] if mirror else upright
    coded = np.ascontiguousarray(np.rot90(coded, -rotate // 90))  # displaying it turns it back, anticlockwise
    path = make_video(tmp_path / "turned.mp4", [coded], rotate=rotate, mirror=mirror)
    (packet,) = Decode().read("cam", str(path))
    assert packet.size == (96, 64)
    assert first_frame_size(str(path)) == (96, 64)
    np.testing.assert_allclose(packet.image[16::32, 24::48].astype(int), CORNERS, atol=12)
    assert packet.image.flags.c_contiguous


@pytest.mark.parametrize("matrix", [1, 5])  # BT.709, BT.601
@pytest.mark.parametrize("colour_range", [1, 2])  # limited, full
def test_colours_are_rgb_and_honour_matrix_and_range(tmp_path, matrix, colour_range):
    image = np.kron(CORNERS, np.ones((32, 32, 1), np.uint8))
    path = make_video(tmp_path / "c.mp4", [image], colour=(matrix, colour_range), crf="1")
    (packet,) = Decode().read("cam", str(path))
    np.testing.assert_allclose(packet.image[16::32, 16::32].astype(int), CORNERS, atol=6)


def write_image(path, image):
    cv2.imwrite(str(path), image)
    return path


def test_folder_in_natural_order(tmp_path):
    for i in (10, 2, 1):
        write_image(tmp_path / f"img{i}.png", cv2.cvtColor(grey(i), cv2.COLOR_RGB2BGR))
    write_image(tmp_path / "IMG3.bmp", grey(3))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._img1.png").write_bytes(b"left by a file manager")
    assert numbers(tmp_path) == [1, 2, 3, 10]
    packets = list(Decode(fps=10).read("cam", str(tmp_path)))
    assert [p.pts_ns for p in packets] == [0, 10**8, 2 * 10**8, 3 * 10**8]
    assert numbers(tmp_path, stride=3) == [1, 10]
    assert numbers(tmp_path, start_s=0.1, fps=10, loop=2) == [2, 3, 10] * 2
    assert Decode(start_s=0.1, fps=10, loop=2).frames_expected(str(tmp_path)) == 6
    assert first_frame_size(str(tmp_path)) == (WIDTH, HEIGHT)
    assert read_header(str(tmp_path)) == (30.0, 4, "png", 4 / 30)


@pytest.mark.parametrize(
    ("name", "pixel", "want"),
    [
        ("bgr.png", np.uint8([10, 20, 200]), [200, 20, 10]),
        ("alpha.png", np.uint8([10, 20, 200, 128]), [200, 20, 10]),
        ("grey.png", np.uint8([77]), [77, 77, 77]),
        ("deep.png", np.uint16([10 * 257, 20 * 257, 200 * 257]), [200, 20, 10]),
        ("deep.tif", np.uint16([10 * 257, 20 * 257, 200 * 257]), [200, 20, 10]),
        ("ümlaut:1.bmp", np.uint8([10, 20, 200]), [200, 20, 10]),
    ],
)
def test_single_images_become_8_bit_rgb(tmp_path, name, pixel, want):
    _, encoded = cv2.imencode(name[-4:], np.tile(pixel, (48, 64, 1)))
    (tmp_path / name).write_bytes(encoded.tobytes())
    (packet,) = Decode().read("cam", str(tmp_path / name))
    assert (packet.image.shape, packet.image.dtype, packet.pts_ns) == ((48, 64, 3), np.uint8, 0)
    assert np.abs(packet.image.astype(int) - want).max() <= 1


def test_exif_orientation(tmp_path):
    upright = np.kron(CORNERS, np.ones((32, 48, 1), np.uint8))
    stored = np.ascontiguousarray(np.rot90(upright, 1))  # orientation 6: turn clockwise to see it upright
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(stored, cv2.COLOR_RGB2BGR))
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    data = encoded.tobytes()
    (tmp_path / "phone.jpg").write_bytes(data[:2] + segment + data[2:])
    (packet,) = Decode().read("cam", str(tmp_path / "phone.jpg"))
    assert packet.size == (96, 64)
    np.testing.assert_allclose(packet.image[16::32, 24::48].astype(int), CORNERS, atol=12)


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
def test_truncated_file_gives_its_good_frames(tmp_path, videos, caplog, codec, kind, event, threads):
    path = make_video(tmp_path / f"whole.{kind}", videos["noisy"], codec)
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    decode = Decode(threads=threads)
    with caplog.at_level(logging.WARNING, "posestream.decode"):
        found = [number_of(p.image) for p in decode.read("cam", str(cut))]
    assert 20 < len(found) < 40
    assert found[:-1] == list(range(len(found) - 1))  # behind the last P frame, its B frames may be cut off
    assert decode.counters[event] == 1
    (record,) = caplog.records
    assert f"{event} 1" in record.message
    assert record.message.startswith(f"cam: {len(found)} frames given; ")


@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_frames_are_left_out_and_counted(tmp_path, videos, kind, threads):
    path = make_video(tmp_path / f"damaged.{kind[1]}", videos["noisy"], kind[0])
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
    # AVI has no times: a chunk that its reader skips leaves no hole.
    assert counted >= (1 if kind[1] == "avi" else 50 - len(packets))


def test_a_broken_image_in_a_folder_is_counted(tmp_path):
    for i in range(3):
        write_image(tmp_path / f"{i}.png", grey(i))
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    decode = Decode()
    packets = list(decode.read("cam", str(tmp_path)))
    assert [(p.seq, number_of(p.image), p.pts_ns) for p in packets] == [(0, 0, 0), (1, 2, 66666667)]
    assert decode.counters["broken_frames"] == 1
    assert first_frame_size(str(tmp_path)) == (WIDTH, HEIGHT)


def make_audio(path):
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(audio.encode(frame))
        container.mux(audio.encode())


def make_headless(path):  # the index of an MP4 is written last: a recording that was cut off has none
    make_video(path.with_suffix(".mov"), [grey(i) for i in range(5)])
    path.write_bytes(path.with_suffix(".mov").read_bytes()[:600])


BAD_SOURCES = [
    ("yard.mp4", lambda p: p.write_bytes(b""), "cannot read {}: it is empty (0 bytes); expected a video"),
    ("yard.png", lambda p: p.write_bytes(b""), "cannot read {}: it is empty (0 bytes); expected a video"),
    ("none.mp4", lambda p: None, "cannot read {}: there is no such file or folder; check the path"),
    (
        "notes.txt",
        lambda p: p.write_text("horses\n" * 99),
        "cannot read {}: there is no video in it, only text",
    ),
    (
        "notes.mp4",
        lambda p: p.write_text("horses\n" * 99),
        "cannot read {}: FFmpeg cannot open it (Invalid data",
    ),
    ("cut.mp4", make_headless, "cannot read {}: FFmpeg cannot open it (Invalid data"),
    (
        "notes.jpg",
        lambda p: p.write_text("horses\n" * 99),
        "cannot read {}: not one image in it can be decoded",
    ),
    ("sound.m4a", make_audio, "cannot read {}: there is no video in it, only audio"),
    ("folder", lambda p: p.mkdir(), "cannot read {}: the folder holds no images; expected files of type bmp"),
]


@pytest.mark.parametrize(("name", "make", "message"), BAD_SOURCES)
def test_bad_sources_are_refused_in_one_line(tmp_path, capfd, name, make, message):
    path = tmp_path / name
    make(path)
    with pytest.raises(SourceError) as from_check:
        first_frame_size(str(path))
    with pytest.raises(SourceError) as from_read:
        next(Decode().read("cam", str(path)))
    assert str(from_check.value).startswith(message.format(path))
    assert "\n" not in str(from_check.value) + str(from_read.value)
    assert capfd.readouterr() == ("", "")


def test_a_url_goes_to_ffmpeg_and_its_password_to_nobody():
    with pytest.raises(
        SourceError, match=r"^cannot read rtsp://\*\*\*@127.0.0.1:1/yard: FFmpeg cannot open it"
    ):
        first_frame_size("rtsp://groom:secret@127.0.0.1:1/yard")


def test_start_behind_the_end_is_refused(videos):
    with pytest.raises(SourceError, match=r"start_s is 20 s, the last frame of .* is at 1\.63\d* s"):
        next(Decode(start_s=20).read("cam", str(videos["libx264", "mp4"])))


@pytest.mark.parametrize(
    ("options", "option"), [({"stride": 2, "fps": 5}, "stride"), ({"start_s": 3, "stop_s": 2}, "stop_s")]
)
def test_contradictory_options_are_refused(options, option):
    with pytest.raises(OptionError) as error:
        Decode.ports(options)
    assert error.value.option == option


@pytest.mark.parametrize(("kind", "frames"), [("mp4", 50), ("mkv", None)])
def test_size_and_header(videos, kind, frames):
    uri = str(videos["libx264", kind])
    assert first_frame_size(uri) == (WIDTH, HEIGHT)
    assert read_header(uri) == (30.0, frames, "h264", pytest.approx(5 / 3, abs=1e-2))


def test_two_streams_of_one_operator_at_once(videos):
    decode, found = Decode(loop=4), {}

    def read(kind):
        found[kind] = [(p.stream, p.seq, number_of(p.image)) for p in decode.read(kind[1], str(videos[kind]))]

    threads = [threading.Thread(target=read, args=(kind,)) for kind in KINDS[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for kind in KINDS[:2]:
        assert found[kind] == [(kind[1], i, i % 50) for i in range(200)]


@pytest.mark.skipif(not TASKS.exists(), reason="threads of libraries are only seen in Linux's /proc")
def test_one_thread_means_no_other(videos):
    frames = Decode(threads=1).read("cam", str(next(iter(videos.values()))))
    before = len(list(TASKS.iterdir()))
    pictures = [packet.picture for packet in islice(frames, 3)]
    assert len(pictures) == 3
    assert len(list(TASKS.iterdir())) <= before


def test_frames_do_not_wait_for_the_garbage_collector(videos):
    gc.collect()
    gc.disable()
    try:
        frames = sum(1 for _ in Decode(loop=4).read("cam", str(next(iter(videos.values())))))
        assert gc.collect() < frames  # a ring of references for each would be pictures held for nothing
    finally:
        gc.enable()
