"""`decode` on a GPU, with NVDEC."""

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from operators.decode import Decode  # noqa: E402
from tests.support.devices.device_frames import assert_same_samples, packets  # noqa: E402
from tests.support.videos.small_videos import small_video  # noqa: E402


@pytest.mark.gpu
class TestOnAGpu:
    @pytest.mark.parametrize(
        ("codec", "kind", "size"),
        [
            ("libx264", "mp4", (320, 180)),  # decoded as 320x192, and cropped
            ("libx264", "ts", (320, 192)),
            ("libx265", "mp4", (320, 180)),
            ("libvpx-vp9", "webm", (320, 180)),
        ],
    )
    def test_nvdec_gives_the_same_samples_as_the_processor(self, tmp_path, caplog, codec, kind, size):
        path = small_video(tmp_path / f"{codec}.{kind}", codec, size=size)
        found, counters = packets(path)
        expected, _ = packets(path, "cpu")
        assert [(p.pts_ns, p.size) for p in found] == [(p.pts_ns, p.size) for p in expected]
        for packet, other in zip(found, expected, strict=True):
            assert packet.picture.layout == "nv12"
            assert_same_samples(packet.picture, other.picture)
        assert not counters
        assert not caplog.records

    @pytest.mark.parametrize(
        ("codec", "options"), [("libx264", {"pix_fmt": "yuv420p10le"}), ("libsvtav1", {}), ("mpeg4", {})]
    )
    def test_frames_that_the_gpu_cannot_decode_are_uploaded(self, tmp_path, caplog, codec, options):
        path = small_video(tmp_path / f"other-{codec}.mp4", codec, size=(320, 192), **options)
        found, counters = packets(path)
        expected, _ = packets(path, "cpu")
        uploaded = len(found) if codec != "libsvtav1" else counters["uploaded_frames"]  # some chips have AV1
        assert counters["uploaded_frames"] == uploaded
        assert len(caplog.records) == bool(uploaded)
        if codec == "libx264":  # converted to RGB by the processor
            for packet, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(packet.image, other.image)
        else:
            for packet, other in zip(found, expected, strict=True):
                assert_same_samples(packet.picture, other.picture)

    def test_two_streams_at_once_looped_and_thinned_in_a_constant_number_of_surfaces(self, tmp_path, pools):
        path = small_video(tmp_path / "both.mp4", size=(320, 180))
        wanted = [packet.picture for packet in packets(path, "cpu", stride=3)[0]]
        made, errors = {}, []

        def read(stream):
            try:
                decode = Decode(device="cuda", surfaces=8, stride=3, loop=20)
                for index, packet in enumerate(decode.read(stream, str(path))):
                    assert_same_samples(packet.picture, wanted[index % len(wanted)])
                    made.setdefault(stream, []).append(max(pool.allocated for pool in pools))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=read, args=(stream,)) for stream in ("one", "two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors
        assert [len(counts) for counts in made.values()] == [20 * len(wanted)] * 2
        assert all(counts[-1] == counts[len(wanted)] <= 4 for counts in made.values())

    def test_memory_does_not_grow(self, tmp_path):
        path = small_video(tmp_path / "memory.mp4", size=(320, 180))
        used = []
        for packet in Decode(device="cuda", loop=10).read("cam", str(path)):
            if packet.seq % 40 == 39:
                used.append(torch.cuda.memory_allocated())
        assert len(set(used[1:])) == 1
