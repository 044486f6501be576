"""FFmpeg decodes on a stand-in for NVIDIA's driver: contexts, decoders, memory, and planes by DLPack.

The functions whose names do not begin with `test_` run in a process that has the driver.
"""

from __future__ import annotations

import ctypes
import functools
import gc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.device import cuda  # noqa: E402
from engines.device.devices import open_device  # noqa: E402
from operators.decode import Decode  # noqa: E402
from operators.decoding import device_frames  # noqa: E402
from operators.decoding.nvdec import open_nvdec  # noqa: E402
from tests.support.devices.device_frames import samples  # noqa: E402
from tests.support.devices.late_device import LateDevice  # noqa: E402
from tests.support.devices.stand_in_driver import Driver, process_with_driver  # noqa: E402
from tests.support.videos.small_videos import small_video  # noqa: E402

SIZE = (320, 180)
CODECS = [
    ("libx264", "mp4"),
    ("libx264", "ts"),
    ("libx265", "mp4"),
    ("libvpx-vp9", "webm"),
    ("libsvtav1", "mp4"),
]
CUDA, CPU = 2, 1  # DLPack's numbers of devices


class Tensor(ctypes.Structure):
    """DLPack's `DLTensor`, the beginning of what its capsules hold."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int * 2),
        ("ndim", ctypes.c_int),
        ("dtype", ctypes.c_uint8 * 4),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
    )


def contents(capsule) -> Tensor:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return Tensor.from_address(get(capsule, b"dltensor"))


def expected(n: int) -> list[np.ndarray]:
    """The planes of picture n of the stand-in decoder, see nvcuvid.cpp."""
    width, height = SIZE
    row, column = np.arange(height)[:, None], np.arange(width)
    row2, column2 = row[: height // 2], column[: width // 2]
    colours = np.stack(np.broadcast_arrays(n + row2, 7 * n + column2), -1)
    return [(n + 3 * row + 5 * column).astype(np.uint8), colours.astype(np.uint8)]


def numbers(path) -> dict[int, int]:
    """The number of each picture in the order of decoding, by its time; one packet a picture."""
    with av.open(str(path)) as container:
        return {p.pts: n for n, p in enumerate(p for p in container.demux(video=0) if p.size)}


def hardware_frames(path):
    """Frames as NVDEC gives them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = list(container.demux(stream))
        next(filter(None, map(stream.codec_context.decode, packets)))
        decoder = open_nvdec(stream.codec_context, 0)
        for packet in packets:
            yield from decoder.decode(packet if packet.size else None)


@functools.cache
def use_host_memory() -> None:
    """Let this process take memory of the driver's GPU for what it is, memory of the host."""
    from torch.utils import dlpack

    plain = dlpack.from_dlpack

    def from_dlpack(capsule):
        assert contents(capsule).device[0] == CUDA
        contents(capsule).device[0] = CPU
        return plain(capsule)

    dlpack.from_dlpack = from_dlpack
    device_frames.open_device = lambda name: open_device("cpu")


def read(path, **options):
    """The packets of `Decode(device="cuda")`, all of them decoded on NVDEC."""
    use_host_memory()
    decode = Decode(device="cuda", surfaces=100, **options)
    for packet in decode.read("cam", str(path)):
        assert not decode.counters, f"decoded on the processor: {decode.counters}"
        yield packet


def pictures(path) -> list[tuple[int, int]]:
    """The frames of a video on NVDEC: their times in ns, and which picture of the decoder each is."""
    found = []
    for packet in read(path):
        y, uv = samples(packet.picture)
        n = int(y[0, 0])
        assert all(np.array_equal(*pair) for pair in zip((y, uv), expected(n), strict=True))
        found.append((packet.pts_ns, n))
    return found


def left_over() -> tuple[list[str], int, int, int, int]:
    """Faults, bytes of memory, contexts on this thread, references to the primary context, and open decoders."""
    gc.collect()
    driver = Driver()
    decoders = driver.calls("cuvidCreateDecoder") - driver.calls("cuvidDestroyDecoder")
    return driver.faults, driver.bytes, driver.contexts, driver.calls("cuDevicePrimaryCtxRetain"), decoders


@pytest.fixture(scope="module")
def in_driver():
    """Runs a function in a process with the stand-in driver; at the end nothing may be left over."""
    with process_with_driver() as run:
        yield run
        assert run(left_over) == ([], 0, 0, 1, 0)


@pytest.mark.parametrize(("codec", "kind"), CODECS)
def test_every_frame_is_decoded_on_nvdec(in_driver, tmp_path, codec, kind):
    path = small_video(tmp_path / f"{codec}.{kind}", codec, size=SIZE)
    found = in_driver(pictures, path)
    with av.open(str(path)) as container:
        period_ns = 10**9 / 30
        assert [round(pts_ns / period_ns) for pts_ns, _ in found] == [
            round(float(frame.pts * frame.time_base) * 30) for frame in container.decode(video=0)
        ]
    assert len({n for _, n in found}) == 40
    if codec in ("libx264", "libx265"):  # the others have pictures that are not shown
        assert [n for _, n in found] == [n for _, n in sorted(numbers(path).items())]


def planes(path):
    """The planes by DLPack of some frames: shapes, strides, dtype, device, and whether they hold the picture."""
    found = []
    for frame in hardware_frames(path):
        capsules = [plane.__dlpack__() for plane in frame.planes]
        tensors = [contents(capsule) for capsule in capsules]
        found.append(
            [
                (t.shape[: t.ndim], t.strides[: t.ndim], list(t.dtype), list(t.device), t.data % 512)
                for t in tensors
            ]
        )
    return found


def test_the_planes_by_dlpack(in_driver, video_of_size):
    found = in_driver(planes, video_of_size)
    code, bits, lanes = 1, 8, 1  # unsigned
    dtype = [code, bits, lanes, 0]
    pitch = 512
    assert (
        found
        == [
            [
                ([180, 320], [pitch, 1], dtype, [CUDA, 0], 0),
                ([90, 160, 2], [pitch, 2, 1], dtype, [CUDA, 0], 0),
            ]
        ]
        * 40
    )


@pytest.fixture(scope="module")
def video_of_size(tmp_path_factory):
    return small_video(tmp_path_factory.mktemp("nvdec") / "video.mp4", size=SIZE)


def kept_while_others_are_decoded(path) -> tuple[bool, bool, int]:
    """Whether planes stay as they are while all other frames are decoded; memory until they are dropped, and after."""
    frames = hardware_frames(path)
    first = next(frames)
    capsules = [plane.__dlpack__() for plane in first.planes]
    kept = [contents(capsule) for capsule in capsules]
    del first
    last = list(frames)[-1]
    same = all(np.array_equal(array(t), plane) for t, plane in zip(kept, expected(0), strict=True))
    driver = Driver()
    while_kept = driver.bytes
    del capsules, last, frames
    gc.collect()
    return same, while_kept > 0, driver.bytes


def array(tensor: Tensor) -> np.ndarray:
    """What lies in the memory of a tensor."""
    shape, strides = tensor.shape[: tensor.ndim], tensor.strides[: tensor.ndim]
    memory = (ctypes.c_uint8 * (shape[0] * strides[0])).from_address(tensor.data)
    return np.lib.stride_tricks.as_strided(np.frombuffer(memory, np.uint8), shape, strides)


def test_planes_live_as_long_as_their_capsules(in_driver, video_of_size):
    assert in_driver(kept_while_others_are_decoded, video_of_size) == (True, True, 0)


def copied_late(path) -> list[int]:
    """Which pictures the surfaces hold, if each copy to a surface runs as late as it may."""
    use_host_memory()
    with pytest.MonkeyPatch.context() as patch:
        device = LateDevice()
        patch.setattr(device_frames, "open_device", lambda name: device)
        packets = list(Decode(device="cuda", surfaces=100).read("cam", str(path)))
        found = []
        for packet in packets:
            packet.picture.ready.synchronise()
            found.append(int(packet.picture.planes[0][0, 0]))
    return found


def test_frames_live_until_they_are_copied(in_driver, video_of_size):
    found = in_driver(copied_late, video_of_size)
    assert found == [n for _, n in sorted(numbers(video_of_size).items())]


def repeated(path, times) -> tuple[list[int], Counter]:
    """Which pictures a repeated file gives, and how often functions of the driver are called for it."""
    functions = ("cuvidCreateDecoder", "cuvidDestroyDecoder", "cuMemAlloc_v2", "cuMemFree_v2")
    driver = Driver()
    gc.collect()  # what earlier tests have left
    before = Counter({name: driver.calls(name) for name in functions})
    found = [int(samples(packet.picture)[0][0, 0]) for packet in read(path, loop=times)]
    gc.collect()
    return found, Counter({name: driver.calls(name) for name in functions}) - before


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_a_repeated_file_needs_one_decoder(in_driver, tmp_path, codec):
    path = small_video(tmp_path / "short.mp4", codec, size=SIZE, frames=10)
    once, calls = in_driver(repeated, path, 1)
    often, more_calls = in_driver(repeated, path, 6)
    # In each repetition the decoder goes on counting.
    step = (often[10] - often[0]) % 256
    assert step >= 10
    assert often == [(n + step * time) % 256 for time in range(6) for n in once]
    assert more_calls == calls
    assert calls["cuvidCreateDecoder"] == calls["cuvidDestroyDecoder"] == 1
    assert calls["cuMemAlloc_v2"] == calls["cuMemFree_v2"]


def read_by_threads(path, count) -> list[int]:
    """How many frames each of several threads gets, which read at once."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: sum(1 for _ in read(path)), range(count)))


def test_several_threads_share_the_context(in_driver, video_of_size):
    assert in_driver(read_by_threads, video_of_size, 4) == [40] * 4
    assert in_driver(left_over) == ([], 0, 0, 1, 0)


def capture_modes() -> tuple[int, int]:
    """This thread's mode towards recordings of other threads, before and after it gets its stream."""
    driver = Driver()
    before = driver.capture_mode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "set_stream", lambda stream: None)
        stream = cuda.CudaStream.__new__(cuda.CudaStream)
        stream.stream = None
        stream.make_current()
    return before, driver.capture_mode


def test_a_thread_ignores_the_recordings_of_others(in_driver):
    assert in_driver(capture_modes) == (0, 1)  # CUDA's "global", "thread local"


def test_the_video_decoder_is_found_beside_the_driver(video_of_size):
    with process_with_driver(on_path=False) as run:
        assert len(run(pictures, video_of_size)) == 40
        assert run(left_over) == ([], 0, 0, 1, 0)
