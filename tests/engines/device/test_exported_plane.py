"""Planes for other libraries: what they say of the memory, who keeps it, and on which stream it may be read."""

from __future__ import annotations

import gc

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.device.devices import open_device, thread_stream  # noqa: E402
from engines.device.exported_plane import ExportedPlane  # noqa: E402
from engines.device.image import DeviceImage  # noqa: E402
from engines.device.pool import SurfacePool  # noqa: E402
from tests.support.devices.toy_world import World  # noqa: E402


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def padded_nv12(device) -> DeviceImage:
    """A frame of 6 x 4 px whose rows are 16 bytes apart, as a decoder's."""
    stream = device.new_stream()
    y = device.empty(64, stream).view(4, 16)[:, :6]
    uv = device.empty(32, stream).view(2, 16)[:, :6].view(2, 3, 2)
    y.copy_(torch.from_numpy(noise(4, 6)))
    uv.copy_(torch.from_numpy(noise(2, 3, 2, seed=1)))
    return DeviceImage([y, uv], np.eye(3, 4, dtype=np.float32), stream.record(), device)


def test_the_cuda_array_interface_describes_the_memory_and_the_stream():
    device = World().device()
    image, stream = padded_nv12(device), device.new_stream()
    with image.export(stream) as planes:
        found = [plane.__cuda_array_interface__ for plane in planes]
    shared = {"typestr": "|u1", "version": 3, "stream": stream.handle}
    y, uv = image.planes
    assert found == [
        {"shape": (4, 6), "strides": (16, 1), "data": (y.data_ptr(), True), **shared},
        {"shape": (2, 3, 2), "strides": (16, 2, 1), "data": (uv.data_ptr(), True), **shared},
    ]


def test_on_the_cpu_numpy_and_pytorch_read_the_same_memory():
    device = open_device("cpu")
    image = padded_nv12(device)
    with image.export(thread_stream(device)) as planes:
        for plane, tensor in zip(planes, image.planes, strict=True):
            assert not hasattr(plane, "__cuda_array_interface__")
            assert plane.__dlpack_device__() == (1, 0)
            imported = torch.from_dlpack(plane)
            assert (imported.data_ptr(), imported.stride()) == (tensor.data_ptr(), tensor.stride())
            for array in (np.asarray(plane), np.from_dlpack(plane)):
                assert array.ctypes.data == tensor.data_ptr()
                assert not array.flags.writeable
                np.testing.assert_array_equal(array, tensor.numpy())


@pytest.mark.parametrize(
    "view_of", [np.asarray, np.from_dlpack, torch.from_dlpack], ids=["asarray", "numpy", "torch"]
)
def test_a_view_keeps_its_surface_until_it_is_dropped(view_of):
    device = open_device("cpu")
    stream = thread_stream(device)
    pool = SurfacePool(device, 2)
    picture = noise(4, 6, 3)
    image = pool.from_host(picture, stream)
    with image.export(stream) as (plane,):
        view = view_of(plane)[1:, 2:]
    del image, plane
    gc.collect()
    assert pool.held == 1
    pool.from_host(noise(4, 6, 3, seed=1), stream)  # takes another surface
    np.testing.assert_array_equal(np.asarray(view), picture[1:, 2:])
    del view
    gc.collect()
    assert pool.held == 0


def test_work_inside_waits_for_the_frame_and_the_next_frame_waits_for_the_work():
    world = World(eager=0)
    device = world.device()
    writer, reader = device.new_stream(), device.new_stream()
    pool = SurfacePool(device, 1)
    picture = noise(4, 6, 3)
    image = pool.from_host(picture, writer)
    read = []
    with image.export(reader) as (plane,):
        source = torch.from_dlpack(plane)
        reader.launch(lambda memory: read.append(memory.clone()), reads=[source])
    del image, plane, source
    pool.from_host(noise(4, 6, 3, seed=1), writer)  # a Race without the events
    world.finish()
    np.testing.assert_array_equal(read[0].numpy(), picture)
    assert world.races == []


class GpuTensor:
    """As much of a tensor on a GPU as an `ExportedPlane` reads before it makes a capsule."""

    is_cuda = True
    device = torch.device("cuda", 1)


@pytest.mark.parametrize("stream", [None, 1, 8], ids=["the default stream", "the legacy stream", "another"])
def test_a_library_whose_current_stream_is_another_is_refused(stream):
    ours = World().device().new_stream()
    ours.handle = 0x7F00
    plane = ExportedPlane(None, GpuTensor(), ours)
    assert plane.__dlpack_device__() == (2, 1)
    with pytest.raises(BufferError, match=r"on the stream 0x7f00, but .* is .*cupy\.cuda\.ExternalStream"):
        plane.__dlpack__(stream=stream)


@pytest.mark.parametrize("wanted", [{"copy": True}, {"dl_device": (2, 0)}])
def test_a_copy_is_refused(wanted):
    device = open_device("cpu")
    with (
        padded_nv12(device).export(thread_stream(device)) as (plane, _),
        pytest.raises(BufferError, match="copy it after from_dlpack"),
    ):
        plane.__dlpack__(**wanted)


@pytest.mark.gpu
def test_on_a_gpu_pytorch_reads_the_same_memory():
    device = open_device("cuda")
    stream = thread_stream(device)
    pool = SurfacePool(device, 1)
    picture = noise(48, 64, 3)
    image = pool.from_host(picture, stream)
    with image.export(stream) as (plane,):
        view = torch.from_dlpack(plane)
        assert plane.__cuda_array_interface__["stream"] == stream.handle
    assert (view.data_ptr(), view.device) == (image.planes[0].data_ptr(), device.torch_device)
    del image, plane
    assert pool.held == 1
    np.testing.assert_array_equal(device.download({"rgb": view}, stream)["rgb"], picture)
    del view
    assert pool.held == 0
