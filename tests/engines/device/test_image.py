"""Frames on a device: their layouts, uploads and downloads, and the order of reads and writes."""

from __future__ import annotations

import contextlib
import threading

import av
import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.device.devices import open_device, thread_stream  # noqa: E402
from engines.device.image import DeviceImage, reading  # noqa: E402
from engines.device.plane_layout import LayoutError, layout_of, plane_shapes  # noqa: E402
from engines.device.pool import SurfacePool  # noqa: E402
from operators.decoding.frame_images import picture_of  # noqa: E402
from tests.support.devices.toy_device import Race  # noqa: E402
from tests.support.devices.toy_world import World  # noqa: E402

MATRIX = np.eye(3, 4, dtype=np.float32)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def frame_of(width: int, height: int, colorspace: int = 5, color_range: int = 1) -> av.VideoFrame:
    """A frame of noise as a decoder gives it; with an odd width, its rows are padded."""
    picture = cv2.resize(noise(9, 11, 3), (width, height), interpolation=cv2.INTER_CUBIC)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=colorspace, dst_color_range=color_range
    )
    frame.colorspace, frame.color_range = colorspace, color_range
    return frame


def as_nv12(y: np.ndarray, u: np.ndarray, v: np.ndarray) -> list[torch.Tensor]:
    """NV12 tensors with padded rows, as a decoder's."""
    wide = -(-y.shape[1] // 64) * 64
    luma = torch.zeros((y.shape[0], wide), dtype=torch.uint8)[:, : y.shape[1]]
    colour = torch.zeros((u.shape[0], wide), dtype=torch.uint8)[:, : 2 * u.shape[1]].view(*u.shape, 2)
    luma.copy_(torch.from_numpy(y.copy()))
    colour.copy_(torch.from_numpy(np.dstack([u, v])))
    return [luma, colour]


@pytest.mark.parametrize("size", [(64, 48), (641, 481), (1, 1), (3, 2)])
@pytest.mark.parametrize("layout", ["rgb", "i420", "nv12"])
def test_planes_have_the_shapes_of_their_layout(layout, size):
    planes = [torch.zeros(shape, dtype=torch.uint8) for shape in plane_shapes(layout, size)]
    assert layout_of(planes) == layout
    device = open_device("cpu")
    image = DeviceImage(planes, None, device.new_stream().record(), device)
    assert (image.layout, image.shape) == (layout, (size[1], size[0], 3))


@pytest.mark.parametrize(
    ("planes", "found"),
    [
        ([torch.zeros((4, 6), dtype=torch.int16), torch.zeros((2, 3, 2), dtype=torch.int16)], "of int16"),
        ([torch.zeros((4, 6), dtype=torch.uint8), torch.zeros((4, 3, 2), dtype=torch.uint8)], r"\(4, 3, 2\)"),
        ([torch.zeros((4, 6), dtype=torch.uint8)], r"\(4, 6\)"),
        ([torch.zeros((4, 6, 3), dtype=torch.uint8)] * 4, "expected uint8 as NV12"),
        ([], "expected uint8 as NV12"),
    ],
    ids=["P010", "4:2:2", "grey", "four planes", "none"],
)
def test_the_error_for_other_layouts_names_the_cpu(planes, found):
    with pytest.raises(LayoutError, match=rf"{found}.*device: cpu"):
        layout_of(planes)


@pytest.mark.parametrize("size", [(64, 48), (641, 481), (37, 22)])
@pytest.mark.parametrize("colorspace", [1, 5, 9], ids=["bt709", "bt601", "bt2020"])
@pytest.mark.parametrize("color_range", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize("layout", ["i420", "nv12"])
def test_rgb_equals_that_of_the_decoder_on_the_cpu(size, colorspace, color_range, layout):
    picture = picture_of(frame_of(*size, colorspace, color_range))
    device = open_device("cpu")
    stream = thread_stream(device)
    if layout == "i420":
        image = SurfacePool(device, 1).from_host(picture, stream)
    else:
        planes = as_nv12(picture.y, picture.u, picture.v)
        image = DeviceImage(planes, picture.matrix, stream.record(), device)
    assert image.layout == layout
    assert image.shape == image.rgb.shape == picture.shape
    difference = np.abs(image.rgb.astype(int) - picture.rgb)
    if size[1] % 2:  # swscale interpolates the chroma
        assert difference.mean() < 2
    else:
        assert difference.max() <= 2


def test_rgb_is_downloaded_once():
    world = World()
    device = world.device()
    stream = device.new_stream()
    picture = noise(5, 7, 3)
    image = SurfacePool(device, 1).from_host(picture, stream)
    found = []
    threads = [threading.Thread(target=lambda: found.append(image.rgb)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(found[0], picture)
    assert all(rgb is found[0] for rgb in found)
    assert len([who for who, _ in world.log if who == "host"]) == 1
    assert world.races == []


def written(world: World, picture: np.ndarray | None = None):
    """A pool, an image in it, the stream that has written it, and the stream of another stage."""
    device = world.device()
    writer = device.new_stream()
    pool = SurfacePool(device, 1)
    return (
        pool,
        pool.from_host(noise(4, 6, 3) if picture is None else picture, writer),
        writer,
        device.new_stream(),
    )


def test_a_reader_that_does_not_wait_is_caught():
    _, image, _, reader = written(World(eager=0))
    with pytest.raises(Race, match="may read memory that is still being written"):
        reader.launch(lambda source: None, reads=[image.planes[0]])


def test_readers_wait_for_the_write_and_the_next_writer_waits_for_the_readers():
    world = World(eager=0)
    pool, image, writer, reader = written(world)
    other = pool.device.new_stream()
    for stream in (reader, other):  # the graph forks: both stages read the image
        with image.reading(stream) as (plane,):
            stream.launch(lambda source: None, reads=[plane])
    ready = image.ready.name
    del plane, image
    pool.from_host(noise(4, 6, 3), writer)
    assert world.log[:2] == [(str(reader), ready), (str(other), ready)]
    assert {who for who, _ in world.log[2:]} == {str(writer)}
    assert {name.partition("@")[0] for _, name in world.log[2:]} >= {str(reader), str(other)}
    assert pool.allocated == 1
    assert world.races == []


def test_the_next_writer_waits_for_a_reader_that_raised():
    world = World(eager=0)
    pool, image, writer, reader = written(world)

    with contextlib.suppress(RuntimeError), image.reading(reader) as (plane,):
        reader.launch(lambda source: None, reads=[plane])
        raise RuntimeError("in the middle")
    del image, plane
    pool.from_host(noise(4, 6, 3), writer)  # a Race if the writer did not wait
    assert world.races == []


def test_reading_many_images_records_one_event():
    world = World(eager=0)
    device = world.device()
    writer, reader = device.new_stream(), device.new_stream()
    pool = SurfacePool(device, 3)
    images = [pool.from_host(noise(4, 6, 3, seed=seed), writer) for seed in range(3)]
    before = reader.clock[reader]
    sums = []
    with reading(images, reader) as planes:
        reader.launch(
            lambda *sources: sums.extend(int(s.sum()) for s in sources), reads=[p for (p,) in planes]
        )
    assert reader.clock[reader] - before == 3 + 1 + 1  # three waits, the kernel, one event
    world.finish()
    assert sums == [int(noise(4, 6, 3, seed=seed).sum()) for seed in range(3)]


def test_an_image_on_another_device_is_copied_once():
    world = World(eager=0)
    pool, image, writer, _ = written(world)
    far = world.device("toy:1")
    first, second = far.new_stream(), far.new_stream()
    there = image.on(far, first)
    assert image.on(far, second) is there
    assert image.on(pool.device, writer) is image
    sums = []
    for stream in (first, second):
        with there.reading(stream) as (plane,):
            stream.launch(lambda source: sums.append(int(source.sum())), reads=[plane])
    del image
    pool.from_host(noise(4, 6, 3, seed=1), writer)  # must wait for the copy
    world.finish()
    assert sums == [int(noise(4, 6, 3).sum())] * 2
    assert world.races == []


def test_a_copy_by_the_default_stream_is_caught():
    world = World()
    _, image, _, _ = written(world)
    far = world.device("toy:1")
    stream = far.new_stream()
    with pytest.raises(Race, match="the default stream of toy:0"):
        far.copy(far.empty(72, stream), image.planes[0].view(-1), stream)


def test_a_kernel_on_the_wrong_device_is_caught():
    world = World()
    _, image, _, _ = written(world)
    stream = world.device("toy:1").new_stream()
    stream.wait(image.ready)
    with pytest.raises(Race, match="works on memory of toy:0"):
        stream.launch(lambda source: None, reads=[image.planes[0]])


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(640, 480), (641, 481)])
def test_pictures_go_to_a_gpu_and_back(size):
    device = open_device("cuda")
    picture = picture_of(frame_of(*size))
    image = SurfacePool(device, 1).from_host(picture, thread_stream(device))
    with image.reading(thread_stream(device)) as planes:
        found = device.download(dict(zip("yuv", planes, strict=True)), thread_stream(device))
    for name, plane in found.items():
        np.testing.assert_array_equal(plane, getattr(picture, name))
    assert np.abs(image.rgb.astype(int) - picture.rgb).mean() < 2


@pytest.mark.gpu
def test_an_image_on_another_gpu():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    near, far = open_device("cuda:0"), open_device("cuda:1")
    picture = noise(48, 64, 3)
    image = SurfacePool(near, 1).from_host(picture, thread_stream(near))
    there = image.on(far, thread_stream(far))
    np.testing.assert_array_equal(there.rgb, picture)
    assert torch.cuda.current_device() == 0
