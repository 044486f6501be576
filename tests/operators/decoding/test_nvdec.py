"""Which decoder decodes what; NVDEC's part is played by a second decoder of the processor (`tests.support.toy_nvdec`)."""

from itertools import islice

import av
import pytest

pytest.importorskip("torch")

from engines.errors import EngineError
from operators.decoding.nvdec import FAILURES_MAX, Nvdec, open_nvdec
from tests.support.small_videos import small_video
from tests.support.toy_nvdec import Hardware, HardwareFrame

DECODED_BY_GPUS = [
    ("libx264", "mp4"),
    ("libx264", "mkv"),
    ("libx264", "ts"),
    ("libx265", "mp4"),
    ("libvpx-vp9", "webm"),
]


class Watched:
    """An `Nvdec` on a video, what it opened, and the reasons that it told."""

    def __init__(self, container, **hardware):
        self.stream = container.streams.video[0]
        self.opened, self.reasons = [], []

        def open_hardware(context):
            self.opened.append(Hardware(context, **hardware))
            return self.opened[-1]

        self.decoder = Nvdec(self.stream.codec_context, open_hardware, self.reasons.append)
        self.errors = 0

    def decode(self, packets):
        for packet in packets:
            try:
                yield from self.decoder.decode(packet if packet.size else None)
            except av.error.FFmpegError:
                self.errors += 1


def decoded(path, **hardware):
    """Times of the frames, which of them are NVDEC's, and what watched it."""
    with av.open(str(path)) as container:
        watched = Watched(container, **hardware)
        frames = list(watched.decode(container.demux(watched.stream)))
    return [frame.pts for frame in frames], [isinstance(frame, HardwareFrame) for frame in frames], watched


def times(path):
    with av.open(str(path)) as container:
        return [frame.pts for frame in container.decode(video=0)]


@pytest.mark.parametrize(("codec", "kind"), DECODED_BY_GPUS)
def test_nvdec_gives_every_frame(tmp_path, codec, kind):
    path = small_video(tmp_path / f"{codec}.{kind}", codec)
    found, hardware, watched = decoded(path)
    assert found == times(path)
    assert all(hardware)
    assert not watched.reasons


def test_the_processor_stops_once_nvdec_has_begun(video, monkeypatch):
    with av.open(str(video)) as container:
        watched = Watched(container)
        packets = container.demux(watched.stream)
        before = list(islice(watched.decode(packets), 1))
        used = watched.decoder._software = Counting()
        rest = list(watched.decode(packets))
    assert len(before + rest) == 40
    assert used.packets == 0


class Counting:
    packets = 0

    def decode(self, packet):
        self.packets += 1
        return []


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("ten.mp4", {"pix_fmt": "yuv420p10le"}, "its pictures are yuv420p10le, expected 8 bit"),
        ("full.mp4", {"pix_fmt": "yuv444p"}, "its pictures are yuv444p"),
        ("odd.webm", {"codec": "libvpx-vp9", "size": (65, 49)}, "65x49 is odd"),
        ("old.mp4", {"codec": "mpeg4"}, "not for mpeg4"),
        ("turned.mp4", {"rotate": 90}, "to be turned"),
        ("colour.mp4", {"colorspace": 7}, "has the number 7"),
    ],
)
def test_what_nvdec_is_not_for_the_processor_decodes(tmp_path, name, options, reason):
    path = small_video(tmp_path / name, **options)
    found, hardware, watched = decoded(path)
    assert found == times(path)
    assert not any(hardware)
    assert not watched.opened
    assert [reason in told for told in watched.reasons] == [True]


@pytest.mark.parametrize(
    ("hardware", "reason"),
    [
        ({"fails_on": range(100)}, "NVDEC refuses it (Invalid data found when processing input): h264 High"),
        ({"fails_on": [1]}, "NVDEC refuses it"),
        ({"silent": True}, "no frame came"),
        ({"sw_format": "p010le"}, "NVDEC gives p010le, expected nv12"),
        ({"size": (136, 96)}, "NVDEC gives 136x96 px, expected 128x96"),
    ],
)
def test_no_frame_is_lost_where_nvdec_refuses(video, hardware, reason):
    found, by_hardware, watched = decoded(video, **hardware)
    assert found == times(video)
    assert not any(by_hardware)
    assert [reason in told for told in watched.reasons] == [True]


@pytest.mark.parametrize(
    ("kind", "arguments"), [(EngineError, ["CUDA refuses"]), (av.error.OSError, [5, "CUDA refuses"])]
)
def test_a_gpu_that_cannot_be_opened_is_told(video, kind, arguments):
    def open_hardware(context):
        raise kind(*arguments)

    reasons = []
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        decoder = Nvdec(stream.codec_context, open_hardware, reasons.append)
        frames = [f for packet in container.demux(stream) for f in decoder.decode(packet)]
    assert len(frames) == 40
    assert reasons == ["NVDEC cannot be opened (CUDA refuses)"]


def test_one_bad_packet_is_an_error_and_no_more(video):
    found, hardware, watched = decoded(video, fails_on=[20])
    assert watched.errors == 1
    assert not watched.reasons
    assert all(hardware)
    assert len(found) >= 38


def test_after_many_failures_the_processor_goes_on(tmp_path):
    path = small_video(tmp_path / "long.mp4", frames=100)
    found, hardware, watched = decoded(path, fails_on=range(30, 1000))
    assert watched.errors >= FAILURES_MAX
    assert [f"failed on {FAILURES_MAX} packets in a row" in told for told in watched.reasons] == [True]
    assert not hardware[-1]
    assert found[-1] == times(path)[-1]
    assert len(found) > 50


@pytest.mark.parametrize("packets", [1, 30])
def test_after_a_seek_it_begins_anew(video, packets):
    with av.open(str(video)) as container:
        watched = Watched(container)
        list(watched.decode(islice(container.demux(watched.stream), packets)))
        container.seek(0)
        watched.decoder.flush_buffers()
        frames = list(watched.decode(container.demux(watched.stream)))
    assert [frame.pts for frame in frames] == times(video)
    assert all(isinstance(frame, HardwareFrame) for frame in frames)
    assert len(watched.opened) == 1


def test_without_a_gpu_opening_says_so(video):
    from engines.loading.backend_choice import cuda_devices

    if cuda_devices():
        pytest.skip("there is a GPU")
    with av.open(str(video)) as container, pytest.raises((EngineError, av.error.FFmpegError)):
        open_nvdec(container.streams.video[0].codec_context, 0)
