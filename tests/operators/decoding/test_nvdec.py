"""When `Nvdec` uses NVDEC and when the processor. A second decoder of the processor stands in for NVDEC."""

from itertools import islice

import av
import pytest

pytest.importorskip("torch")

from engines.errors import EngineError
from operators.decoding.nvdec import FAILURES_MAX, Nvdec, open_nvdec
from tests.support.devices.toy_nvdec import Hardware, HardwareFrame
from tests.support.videos.small_videos import small_video

SUITED_KINDS = [
    ("libx264", "mp4"),
    ("libx264", "mkv"),
    ("libx264", "ts"),
    ("libx265", "mp4"),
    ("libvpx-vp9", "webm"),
]


class Recorded:
    """An `Nvdec` for a video, with the decoders that it opened and the reasons that it gave for falling back."""

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
    """The times of the frames, which of them are NVDEC's, and the `Recorded`."""
    with av.open(str(path)) as container:
        recorded = Recorded(container, **hardware)
        frames = list(recorded.decode(container.demux(recorded.stream)))
    return [frame.pts for frame in frames], [isinstance(frame, HardwareFrame) for frame in frames], recorded


def times(path):
    with av.open(str(path)) as container:
        return [frame.pts for frame in container.decode(video=0)]


@pytest.mark.parametrize(("codec", "kind"), SUITED_KINDS)
def test_nvdec_gives_every_frame(tmp_path, codec, kind):
    path = small_video(tmp_path / f"{codec}.{kind}", codec)
    found, hardware, recorded = decoded(path)
    assert found == times(path)
    assert all(hardware)
    assert not recorded.reasons


def test_the_processor_stops_when_nvdec_gives_frames(video, monkeypatch):
    with av.open(str(video)) as container:
        recorded = Recorded(container)
        packets = container.demux(recorded.stream)
        before = list(islice(recorded.decode(packets), 1))
        used = recorded.decoder._software = Counting()
        rest = list(recorded.decode(packets))
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
        ("ten.mp4", {"pix_fmt": "yuv420p10le"}, "its pixel format is yuv420p10le, expected 8 bit"),
        ("full.mp4", {"pix_fmt": "yuv444p"}, "its pixel format is yuv444p"),
        ("odd.webm", {"codec": "libvpx-vp9", "size": (65, 49)}, "65x49 is odd"),
        ("old.mp4", {"codec": "mpeg4"}, "not for mpeg4"),
        ("turned.mp4", {"rotate": 90}, "rotated or mirrored"),
        ("colour.mp4", {"colorspace": 7}, "has the number 7"),
    ],
)
def test_the_processor_decodes_what_does_not_suit_nvdec(tmp_path, name, options, reason):
    path = small_video(tmp_path / name, **options)
    found, hardware, recorded = decoded(path)
    assert found == times(path)
    assert not any(hardware)
    assert not recorded.opened
    assert [reason in given for given in recorded.reasons] == [True]


@pytest.mark.parametrize(
    ("hardware", "reason"),
    [
        ({"fails_on": range(100)}, "NVDEC refuses it (Invalid data found when processing input): h264 High"),
        ({"fails_on": [1]}, "NVDEC refuses it"),
        ({"silent": True}, "gave no frame"),
        ({"sw_format": "p010le"}, "NVDEC gives p010le, expected nv12"),
        ({"size": (136, 96)}, "NVDEC gives 136x96 px, expected 128x96"),
    ],
)
def test_no_frame_is_lost_when_nvdec_refuses(video, hardware, reason):
    found, by_hardware, recorded = decoded(video, **hardware)
    assert found == times(video)
    assert not any(by_hardware)
    assert [reason in given for given in recorded.reasons] == [True]


@pytest.mark.parametrize(
    ("kind", "arguments"), [(EngineError, ["CUDA refuses"]), (av.error.OSError, [5, "CUDA refuses"])]
)
def test_the_reason_says_that_a_gpu_cannot_be_opened(video, kind, arguments):
    def open_hardware(context):
        raise kind(*arguments)

    reasons = []
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        decoder = Nvdec(stream.codec_context, open_hardware, reasons.append)
        frames = [f for packet in container.demux(stream) for f in decoder.decode(packet)]
    assert len(frames) == 40
    assert reasons == ["NVDEC cannot be opened (CUDA refuses)"]


def test_one_bad_packet_is_an_error_but_no_reason_to_fall_back(video):
    found, hardware, recorded = decoded(video, fails_on=[20])
    assert recorded.errors == 1
    assert not recorded.reasons
    assert all(hardware)
    assert len(found) >= 38


def test_after_many_failures_the_processor_takes_over(tmp_path):
    path = small_video(tmp_path / "long.mp4", frames=100)
    found, hardware, recorded = decoded(path, fails_on=range(30, 1000))
    assert recorded.errors >= FAILURES_MAX
    assert [f"failed on {FAILURES_MAX} packets in a row" in given for given in recorded.reasons] == [True]
    assert not hardware[-1]
    assert found[-1] == times(path)[-1]
    assert len(found) > 50


@pytest.mark.parametrize("packets", [1, 30])
def test_decoding_continues_after_a_seek(video, packets):
    with av.open(str(video)) as container:
        recorded = Recorded(container)
        list(recorded.decode(islice(container.demux(recorded.stream), packets)))
        container.seek(0)
        recorded.decoder.flush_buffers()
        frames = list(recorded.decode(container.demux(recorded.stream)))
    assert [frame.pts for frame in frames] == times(video)
    assert all(isinstance(frame, HardwareFrame) for frame in frames)
    assert len(recorded.opened) == 1


def test_without_a_gpu_opening_fails(video):
    from engines.device.names import cuda_devices

    if cuda_devices():
        pytest.skip("there is a GPU")
    with av.open(str(video)) as container, pytest.raises((EngineError, av.error.FFmpegError)):
        open_nvdec(container.streams.video[0].codec_context, 0)
