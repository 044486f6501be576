"""`decode` on a device. The CPU stands in for the GPU, and `tests.support.devices.toy_nvdec` for NVDEC."""

import gc
import logging
import threading
from itertools import groupby

import av
import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.device.devices import open_device  # noqa: E402
from engines.images.yuv import YuvImage  # noqa: E402
from operators.decode import Decode  # noqa: E402
from operators.decoding import device_frames  # noqa: E402
from operators.estimation.model_options import as_image  # noqa: E402
from pipeline.errors import ConfigError, SourceError  # noqa: E402
from pipeline.graph import check_graph  # noqa: E402
from tests.support.devices.device_frames import assert_same_samples, packets  # noqa: E402
from tests.support.devices.toy_nvdec import Hardware  # noqa: E402
from tests.support.videos.camera_senders import http_server, send_pictures  # noqa: E402
from tests.support.videos.live_reader import LiveReader, until  # noqa: E402
from tests.support.videos.rtsp_fixtures import SIZES, number_of  # noqa: E402
from tests.support.videos.small_videos import small_video  # noqa: E402


@pytest.fixture
def device(monkeypatch):
    """Makes `cuda` the CPU, without NVDEC."""
    monkeypatch.setattr(device_frames, "open_device", lambda name: open_device("cpu"))


@pytest.fixture
def nvdec(device, monkeypatch):
    """Makes `cuda` the CPU, with a decoder like NVDEC. Gives the decoders that were opened."""
    opened = []

    def open_nvdec(context, index):
        opened.append(Hardware(context))
        return opened[-1]

    monkeypatch.setattr(device_frames, "open_nvdec", open_nvdec)
    return opened


def test_uploaded_frames_equal_those_of_the_processor(device, video, caplog):
    found, counters = packets(video, loop=2)
    expected, _ = packets(video, "cpu", loop=2)
    assert [(p.seq, p.pts_ns, p.size) for p in found] == [(p.seq, p.pts_ns, p.size) for p in expected]
    for packet, other in zip(found, expected, strict=True):
        assert_same_samples(packet.picture, other.picture)
    assert counters["uploaded_frames"] == 80
    messages = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == 1
    assert messages[0].startswith(
        "cam: decoded on the processor, and copied to the GPU: NVDEC cannot be opened"
    )


def test_frames_of_nvdec_equal_those_of_the_processor(nvdec, video, caplog):
    found, counters = packets(video)
    expected, _ = packets(video, "cpu")
    assert [(p.seq, p.pts_ns, p.size) for p in found] == [(p.seq, p.pts_ns, p.size) for p in expected]
    for packet, other in zip(found, expected, strict=True):
        assert packet.picture.layout == "nv12"
        assert_same_samples(packet.picture, other.picture)
    assert not counters
    assert not caplog.records


def test_the_rgb_image_is_close_to_that_of_the_processor(nvdec, tmp_path):
    # Smooth colours, since the device repeats colour samples where swscale interpolates.
    path = tmp_path / "smooth.mp4"
    ramp = np.linspace(0, 255, 320)
    picture = np.stack(np.broadcast_arrays(ramp[None], ramp[None, ::-1], ramp[:240, None] / 2), -1).astype(
        np.uint8
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    (found,), _ = packets(path)
    (expected,), _ = packets(path, "cpu")
    difference = np.abs(found.image.astype(int) - expected.image)
    assert found.image.shape == (240, 320, 3)
    assert difference.mean() <= 1
    assert difference.max() <= 4


def test_nvdec_starts_at_start_s(nvdec, video):
    found, _ = packets(video, start_s=0.6, max_frames=3)
    expected, _ = packets(video, "cpu", start_s=0.6, max_frames=3)
    assert [p.pts_ns for p in found] == [p.pts_ns for p in expected]
    for packet, other in zip(found, expected, strict=True):
        assert packet.picture.layout == "nv12"
        assert_same_samples(packet.picture, other.picture)


@pytest.mark.parametrize("options", [{"stride": 5}, {"fps": 6.0}])
def test_frames_that_are_thinned_out_are_not_copied(nvdec, video, options):
    found, _ = packets(video, **options)
    assert len(found) == 8
    given = [frame for hardware in nvdec for frame in hardware.given]
    assert len(given) == 40
    assert [sum(plane.exports for plane in frame.planes) for frame in given] == [2, 0, 0, 0, 0] * 8


def test_rotated_frames_are_given_upright(device, tmp_path, caplog):
    path = small_video(tmp_path / "turned.mp4", frames=3, rotate=90)
    found, _ = packets(path)
    expected, _ = packets(path, "cpu")
    assert [p.size for p in found] == [(96, 128)] * 3
    for packet, other in zip(found, expected, strict=True):
        assert packet.picture.layout == "rgb"
        np.testing.assert_array_equal(packet.image, other.image)
    assert "rotated or mirrored" in caplog.text


def test_frames_of_another_format_are_uploaded_as_rgb(device, tmp_path):
    path = small_video(tmp_path / "ten.mp4", frames=1, pix_fmt="yuv420p10le")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    frames = device_frames.frame_target("cuda", "cam", 4, lambda event, n: None)
    image = frames.picture(frame, None)
    assert image.layout == "rgb"
    np.testing.assert_array_equal(image.rgb, device_frames.picture_of(frame))


def test_images_are_uploaded(device, tmp_path, caplog):
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "1.png"), picture[..., ::-1])
    (packet,), counters = packets(tmp_path)
    assert packet.picture.layout == "rgb"
    np.testing.assert_array_equal(packet.image, picture)
    assert counters["uploaded_frames"] == 1
    assert not caplog.records


def test_models_take_a_device_image_as_it_is(device, video):
    (packet,), _ = packets(video, max_frames=1)
    assert as_image(packet) is packet.picture


@pytest.mark.parametrize("by", ["nvdec", "device"])
def test_a_pool_makes_no_more_surfaces_than_are_in_use(by, video, pools, request):
    request.getfixturevalue(by)
    held = []
    for packet in Decode(device="cuda", surfaces=8, loop=3).read("cam", str(video)):
        held = [*held, packet][-3:]
    assert [pool.allocated for pool in pools] == [4]  # those held, and the one that is being made
    del held, packet
    gc.collect()
    assert pools[0].held == 0


def test_a_full_pool_makes_the_decoder_wait(nvdec, video):
    held, read = [], []

    def reading():
        for packet in Decode(device="cuda", surfaces=4).read("cam", str(video)):
            held.append(packet)
            read.append(packet.seq)
            del packet

    thread = threading.Thread(target=reading, daemon=True)
    thread.start()
    until(lambda: len(read) == 4, "four frames")
    thread.join(0.2)
    assert len(read) == 4
    held.pop(0)
    until(lambda: len(read) == 5, "a frame for the one that left")
    while thread.is_alive():
        held.clear()
        thread.join(0.01)
    assert read == list(range(40))


def test_frames_that_never_leave_the_graph_are_an_error(nvdec, video, pools):
    with pytest.raises(SourceError, match=r"cam: no surface .* 4 of 4 .*give decode more surfaces"):
        packets(video, surfaces=4)


def test_sources_do_not_take_surfaces_from_each_other(nvdec, video, pools):
    first = Decode(device="cuda", surfaces=4).read("one", str(video))
    held = [next(first) for _ in range(4)]
    assert len(packets(video)[0]) == 40
    assert len(held) == 4


def test_frames_of_a_camera_are_stored_on_the_device_too(nvdec):
    with http_server(send_pictures) as url, LiveReader(url, device="cuda") as reader:
        reader.wait_for_packets(20)
    assert reader.error is None
    assert {packet.picture.layout for packet in reader.packets} == {"i420"}  # NVDEC is not used for JPEG
    numbers = [number_of(packet.image) for packet in reader.packets]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_a_camera_that_changes_its_size_and_comes_back(nvdec, rtsp):
    with LiveReader(rtsp.url, device="cuda", surfaces=1000) as reader:
        reader.wait_for_packets(10)
        rtsp.show("large")
        reader.wait_for_events("changed")
        reader.wait_for_packets(10)
        rtsp.restart("small")
        reader.wait_for_events("changed", "lost", "back", "changed")
        reader.wait_for_packets(10)
    assert {packet.picture.layout for packet in reader.packets} == {"nv12"}
    sizes = [size for size, _ in groupby(packet.size for packet in reader.packets)]
    assert sizes == [SIZES["small"], SIZES["large"], SIZES["small"]]
    assert all(packet.picture.shape[1::-1] == packet.size for packet in reader.packets)
    assert len(nvdec) == 1  # it is kept for the second connection


@pytest.mark.parametrize("option", ["gpu", "cuda:", "cuda:x", "0"])
def test_a_malformed_device_name_is_refused(option):
    with pytest.raises(ConfigError, match="device"):
        check_graph(
            {"name": "g", "graph": {"decode": {"op": "decode", "device": option}}}, {"decode": Decode}
        )


class TestWithoutAGpu:
    @pytest.fixture(autouse=True)
    def no_gpu(self, monkeypatch):
        open_device.cache_clear()
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        yield
        open_device.cache_clear()

    def test_cuda_falls_back_to_the_processor_and_logs_the_reason(self, video, caplog):
        found, counters = packets(video)
        assert all(isinstance(packet.picture, YuvImage) for packet in found)
        assert len(found) == 40
        assert not counters
        (message,) = caplog.messages
        assert message.startswith("cam: decoded on the processor: there is no device cuda")

    def test_a_numbered_gpu_must_be_there(self, video):
        with pytest.raises(SourceError, match="cam: there is no device cuda:9"):
            packets(video, "cuda:9")
