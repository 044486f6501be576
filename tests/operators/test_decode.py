"""The operator `decode` on files: which frames it gives, their times, and which sources it refuses."""

import gc
import re
import threading
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import toys

from operators import decode
from operators.decode import Decode
from operators.decoding.media_files import first_frame_size, read_header
from pipeline.errors import OptionError, SourceError
from pipeline.graph import check_graph
from pipeline.make_run import run_graph
from pipeline.operator import Source
from pipeline.packet import Packet
from tests.support.videos.grey_videos import (
    FPS,
    FRAMES,
    HEIGHT,
    KINDS,
    WIDTH,
    grey,
    make_video,
    number_of,
    numbers,
)

TASKS = Path("/proc/self/task")


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_once_in_order(grey_videos, kind, threads):
    packets = list(Decode(threads=threads).read("cam", str(grey_videos[kind])))
    assert [number_of(p.image) for p in packets] == list(range(FRAMES))
    assert [p.seq for p in packets] == list(range(FRAMES))
    times = np.array([p.pts_ns for p in packets]) - packets[0].pts_ns
    np.testing.assert_allclose(times, np.arange(50) * 1e9 / FPS, atol=1e6)
    first = packets[0]
    assert (first.stream, first.size, first.image.shape) == ("cam", (WIDTH, HEIGHT), (HEIGHT, WIDTH, 3))
    assert first.image.dtype == np.uint8
    assert all(p.image.flags.c_contiguous for p in packets)


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_variable_rate_keeps_true_times(tmp_path, kind):
    pts_ms = [100, 133, 200, 210, 500, 501, 1500]
    path = make_video(tmp_path / f"v.{kind}", [grey(i) for i in range(7)], pts_ms=pts_ms)
    packets = list(Decode().read("cam", str(path)))
    start_ms = packets[0].pts_ns // 10**6  # MP4 muxers move the first frame to zero
    assert [p.pts_ns - packets[0].pts_ns for p in packets] == [(t - 100) * 10**6 for t in pts_ms]
    assert start_ms in (0, 100)
    # By time, not by counting: at 5 frames/s, the first frame in each period of 200 ms.
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
        ({"fps": 100}, list(range(FRAMES))),
        ({"max_frames": 3}, [0, 1, 2]),
        ({"start_s": 1.0, "max_frames": 3}, [30, 31, 32]),
        ({"start_s": 1.0, "stop_s": 1.2, "stride": 2}, [30, 32, 34]),
        ({"start_s": 0.59, "stop_s": 0.61}, [18]),
        ({"stop_s": 0.1}, [0, 1, 2]),
        ({"loop": 2, "start_s": 1.5}, [45, 46, 47, 48, 49] * 2),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_chosen_frames(grey_videos, kind, options, want):
    path = grey_videos[kind]
    assert numbers(path, **options) == want
    assert Decode(**options).frames_expected(str(path)) == len(want)


@pytest.mark.parametrize("kind", KINDS)
def test_time_and_number_continue_from_loop_to_loop(grey_videos, kind):
    packets = list(islice(Decode(loop=0, stride=5).read("cam", str(grey_videos[kind])), 35))
    assert [number_of(p.image) for p in packets] == [*range(0, 50, 5)] * 3 + [0, 5, 10, 15, 20]
    assert [p.seq for p in packets] == list(range(35))
    steps = np.diff([p.pts_ns for p in packets])
    np.testing.assert_allclose(steps, 5e9 / FPS, atol=2e6)


def test_captured_ns_comes_from_the_clock(grey_videos):
    packets = Decode(max_frames=3).read(
        "cam", str(grey_videos["libx264", "mp4"]), clock=iter([7, 8, 9]).__next__
    )
    assert [p.captured_ns for p in packets] == [7, 8, 9]


def make_audio(path):
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(audio.encode(frame))
        container.mux(audio.encode())


def make_without_index(path):  # the index of an MP4 is written last: a recording that was cut off has none
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
    ("cut.mp4", make_without_index, "cannot read {}: FFmpeg cannot open it (Invalid data"),
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
    with pytest.raises(SourceError, match=re.escape(str(from_check.value))):
        Decode().check(str(path))
    assert str(from_check.value).startswith(message.format(path))
    assert "\n" not in str(from_check.value) + str(from_read.value)
    assert capfd.readouterr() == ("", "")


def test_checking_and_reading_the_header_open_a_file_once_each(grey_videos, monkeypatch):
    uri, opened, open_file = str(grey_videos["libx264", "mp4"]), [], av.open

    def open_and_note(file, *arguments, **options):
        opened.append(file)
        return open_file(file, *arguments, **options)

    monkeypatch.setattr(av, "open", open_and_note)
    Decode().check(uri)
    assert opened == [f"file:{uri}"]
    assert Decode().frames_expected(uri) == 50
    assert opened == [f"file:{uri}"] * 2


def test_a_url_is_opened_by_ffmpeg_and_its_password_is_not_shown():
    with pytest.raises(
        SourceError, match=r"^cannot read rtsp://\*\*\*@127.0.0.1:1/yard: FFmpeg cannot open it"
    ):
        first_frame_size("rtsp://groom:secret@127.0.0.1:1/yard")


def test_a_start_after_the_end_is_refused(grey_videos):
    with pytest.raises(SourceError, match=r"start_s is 20 s, the last frame of .* is at 1\.63\d* s"):
        next(Decode(start_s=20).read("cam", str(grey_videos["libx264", "mp4"])))


@pytest.mark.parametrize(
    ("options", "option"), [({"stride": 2, "fps": 5}, "stride"), ({"start_s": 3, "stop_s": 2}, "stop_s")]
)
def test_contradictory_options_are_refused(options, option):
    with pytest.raises(OptionError) as error:
        Decode.ports(options)
    assert error.value.option == option


@pytest.mark.parametrize(("kind", "frames"), [("mp4", 50), ("mkv", None)])
def test_size_and_header(grey_videos, kind, frames):
    uri = str(grey_videos["libx264", kind])
    assert first_frame_size(uri) == (WIDTH, HEIGHT)
    assert read_header(uri) == (30.0, frames, "h264", pytest.approx(5 / 3, abs=1e-2))


def test_two_streams_of_one_operator_at_once(grey_videos):
    decode, found = Decode(loop=4), {}

    def read(kind):
        found[kind] = [
            (p.stream, p.seq, number_of(p.image)) for p in decode.read(kind[1], str(grey_videos[kind]))
        ]

    threads = [threading.Thread(target=read, args=(kind,)) for kind in KINDS[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for kind in KINDS[:2]:
        assert found[kind] == [(kind[1], i, i % 50) for i in range(200)]


def test_counts_of_a_source_that_was_read_before_go_on(tmp_path):
    path = make_video(tmp_path / "bare.h264", [grey(i) for i in range(20)])
    decode = Decode()
    decode.counters["frames_without_pts"] = 100  # as a run does when a source is added again
    assert len(list(decode.read("cam", str(path)))) == 20
    assert decode.counters["frames_without_pts"] == 120


@pytest.mark.skipif(not TASKS.exists(), reason="threads of libraries are visible in Linux's /proc only")
def test_with_one_thread_no_other_is_started(grey_videos):
    frames = Decode(threads=1).read("cam", str(next(iter(grey_videos.values()))))
    before = len(list(TASKS.iterdir()))
    pictures = [packet.picture for packet in islice(frames, 3)]
    assert len(pictures) == 3
    assert len(list(TASKS.iterdir())) <= before


def test_frames_are_freed_without_the_garbage_collector(grey_videos):
    gc.collect()
    gc.disable()
    try:
        frames = sum(1 for _ in Decode(loop=4).read("cam", str(next(iter(grey_videos.values())))))
        assert gc.collect() < frames  # a reference cycle per frame would keep its image alive
    finally:
        gc.enable()


class Fussy(Source):
    """A kind of source that drops every second packet."""

    drop_reasons = ("even",)

    def read(self, stream, uri):
        for seq in range(4):
            packet = Packet(stream, seq, seq, 0, (64, 48))
            if seq % 2:
                yield packet
            else:
                self.drop(packet, "even")

    def check(self, uri):
        pass


def test_packets_that_a_kind_of_source_drops_are_counted(monkeypatch):
    monkeypatch.setattr(decode, "KINDS", (decode.Kind(lambda uri, live: True, lambda *_: Fussy()),))
    graph = check_graph(
        {"name": "fussy", "graph": {"decode": {"op": "decode"}, "same": {"op": "same", "after": "decode"}}},
        {"decode": Decode, "same": toys.Same},
    )
    stats = run_graph(graph, {"cam": "anything"})
    assert stats.stages[0].dropped == {"even": 2}
    assert (stats.finished, stats.faults) == (2, [])
