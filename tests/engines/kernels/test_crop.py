"""Crops made on a device equal those made on the host, whether by the kernel or by PyTorch."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.device.devices import open_device  # noqa: E402
from engines.device.image import DeviceImage  # noqa: E402
from engines.errors import EngineError  # noqa: E402
from engines.estimators.crops import Crops  # noqa: E402
from engines.images.geometry import roi_matrices  # noqa: E402
from engines.images.model_input import Input  # noqa: E402
from engines.images.yuv import YuvImage, rgb_matrix  # noqa: E402
from engines.kernels import crop as module  # noqa: E402
from engines.kernels.crop import write_crops  # noqa: E402
from operators.decoding.video import video_frames  # noqa: E402
from tests.support.devices.cuda_emulator import emulated  # noqa: E402

SIZE = (48, 64)
MEAN, STD = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)
# Centre x, y, width, height, angle in a frame of 161 x 121 px: enlarged, shrunk so much that chroma is not
# interpolated, turned, mirrored, partly outside, wholly outside.
ROIS = np.array(
    [
        (60, 50, 30, 40, 0),
        (80, 60, 150, 200, 0.1),
        (90, 70, 60, 80, 2.5),
        (70, 60, -50, 66, 0.3),
        (155, 118, 40, 54, -0.4),
        (900, -400, 40, 54, 0),
    ],
    np.float64,
)


def model_input_with(**changes):
    values = {"name": "x", "size": SIZE, "layout": "nchw", "colour": "rgb", "mean": MEAN, "std": STD}
    return Input(**values | {"placement": "centre", "pad_value": 114} | changes)


def picture(width=161, height=121, seed=0):
    """A picture with smooth colours and with sharp edges."""
    random = np.random.default_rng(seed)
    rgb = cv2.resize(
        random.integers(0, 256, (6, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    cv2.circle(rgb, (width // 2, height // 2), height // 3, (255, 20, 0), 3)
    cv2.putText(rgb, "deer", (10, height // 2), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (0, 0, 255), 2)
    return rgb


def planes_of(rgb, matrix):
    """The YUV image of an RGB picture, by the standard of the matrix."""
    height, width = rgb.shape[:2]
    yuv = (rgb - matrix[:, 3]) @ np.linalg.inv(matrix[:, :3].astype(float)).T
    y, u, v = np.clip(np.rint(np.moveaxis(yuv, 2, 0)), 0, 255).astype(np.uint8)
    halved = (-(-width // 2), -(-height // 2))
    u, v = (cv2.resize(plane, halved, interpolation=cv2.INTER_AREA) for plane in (u, v))
    return YuvImage(y, u, v, matrix, lambda: rgb)


def on_device(image, layout, device, stream):
    """A picture of the host as a `DeviceImage` with padded rows."""

    def plane(array):
        wide = np.zeros((array.shape[0], array.shape[1] + 7, *array.shape[2:]), np.uint8)
        wide[:, : array.shape[1]] = array
        return torch.from_numpy(wide).to(device.torch_device)[:, : array.shape[1]]

    with stream.use():
        if layout == "rgb":
            planes, matrix = [plane(image)], None
        elif layout == "nv12":
            planes, matrix = [plane(image.y), plane(np.stack([image.u, image.v], 2))], image.matrix
        else:
            planes, matrix = [plane(array) for array in (image.y, image.u, image.v)], image.matrix
    return DeviceImage(planes, matrix, stream.record(), device)


def crops_by(way, monkeypatch, images, layout, index, matrices, model_input, dtype="float32"):
    """Crops (N, …) float32, made by the kernel on the emulator or a GPU, or by PyTorch on the CPU or a GPU."""
    device = open_device("cuda:0" if way.startswith("gpu") else "cpu")
    if way != "gpu":
        kernel = emulated("crop", module.PARAMETERS) if way == "emulated" else None
        monkeypatch.setattr(module, "kernel_for", lambda *_: kernel)
    stream = device.new_stream()
    there = [on_device(image, layout, device, stream) for image in images]
    shape = Crops(images, index, matrices, model_input).shape
    memory = torch.full(
        (shape[0] + 2, *shape[1:]), 7, dtype=getattr(torch, dtype), device=device.torch_device
    )
    write_crops(there, index, matrices, model_input, memory[1:-1], stream)
    found = device.download({"": memory}, stream)[""].astype(np.float32)
    monkeypatch.undo()
    assert (found[[0, -1]] == 7).all()  # nothing is written outside the crops
    return found[1:-1]


WAYS = [
    "emulated",
    "torch",
    pytest.param("gpu", marks=pytest.mark.gpu),
    pytest.param("gpu torch", marks=pytest.mark.gpu),
]
BT601, BT709 = ((rgb_matrix(name, full_range=full)) for name, full in (("bt601", False), ("bt709", True)))
TABLE = {
    "nv12": ("nv12", BT601, {}),
    "i420": ("i420", BT709, {}),
    "709 limited": ("nv12", rgb_matrix("bt709", full_range=False), {"colour": "bgr"}),
    "601 full": ("i420", rgb_matrix("bt601", full_range=True), {"layout": "nhwc"}),
    "rgb": ("rgb", None, {}),
    "edge": ("nv12", BT601, {"pad_value": "edge"}),
    "rgb edge": ("rgb", None, {"pad_value": "edge", "layout": "nhwc", "colour": "bgr"}),
    "black": ("nv12", BT601, {"pad_value": 0, "mean": (0, 0, 0), "std": (1, 1, 1)}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("layout", "matrix", "changes"), TABLE.values(), ids=list(TABLE))
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_crops_equal_those_of_the_host(monkeypatch, way, layout, matrix, changes, dtype):
    model_input = model_input_with(**changes)
    image = picture() if matrix is None else planes_of(picture(), matrix)
    index, matrices = np.zeros(len(ROIS), int), roi_matrices(ROIS, SIZE)
    expected = np.asarray(Crops([image], index, matrices, model_input))
    found = crops_by(way, monkeypatch, [image], layout, index, matrices, model_input, dtype)
    grey_levels = np.abs(found - expected) * max(model_input.std)
    assert grey_levels.reshape(len(ROIS), -1).mean(1).max() < 0.1  # mean of each crop
    assert grey_levels.max() < 4


@pytest.mark.parametrize("layout", ["nv12", "rgb"])
def test_the_kernel_and_pytorch_give_the_same_bits(monkeypatch, layout):
    image = picture() if layout == "rgb" else planes_of(picture(), BT601)
    given = ([image], layout, np.zeros(len(ROIS), int), roi_matrices(ROIS, SIZE), model_input_with())
    by_kernel, by_torch = (crops_by(way, monkeypatch, *given) for way in ("emulated", "torch"))
    np.testing.assert_array_equal(by_kernel, by_torch)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_kernel_on_a_gpu_and_pytorch_give_the_same_bits(monkeypatch, dtype):
    given = (
        [planes_of(picture(), BT601)],
        "nv12",
        np.zeros(len(ROIS), int),
        roi_matrices(ROIS, SIZE),
        model_input_with(),
    )
    by_kernel, by_torch = (crops_by(way, monkeypatch, *given, dtype) for way in ("gpu", "gpu torch"))
    np.testing.assert_array_equal(by_kernel, by_torch)


@pytest.mark.parametrize("way", WAYS)
def test_many_crops_of_many_images(monkeypatch, way):
    """More crops and images than one launch takes; the images have several sizes, one has a single pixel."""
    sizes = [(1, 1), (2, 3), *((30 + i, 41 - i) for i in range(18))]
    images = [planes_of(cv2.resize(picture(), size), BT601) for size in sizes]
    random = np.random.default_rng(1)
    index = np.concatenate([np.arange(40) % len(sizes), np.full(40, 5)])
    rois = random.uniform((0, 0, 8, 8, 0), (40, 40, 50, 50, 6), (80, 5))
    model_input = model_input_with(size=(9, 7))
    matrices = roi_matrices(rois, (9, 7))
    expected = np.asarray(Crops(images, index, matrices, model_input))
    found = crops_by(way, monkeypatch, images, "i420", index, matrices, model_input)
    assert np.abs(found - expected).mean() * max(STD) < 0.1


@pytest.mark.parametrize("way", WAYS)
def test_a_real_frame(monkeypatch, way, clip):
    image = next(video_frames(str(clip("single-person")), 1.0, float("inf"), 0, Counter())).picture()
    height, width, _ = image.shape
    rois = np.array(
        [(width / 2, height / 2, height * 0.7, height, 0.2), (width * 0.4, height * 0.3, 60, 80, 0)]
    )
    given = (np.zeros(2, int), roi_matrices(rois, (192, 256)), model_input_with(size=(192, 256)))
    expected = np.asarray(Crops([image], *given))
    assert np.abs(crops_by(way, monkeypatch, [image], "nv12", *given) - expected).mean() * max(STD) < 0.1


@pytest.mark.parametrize("way", WAYS)
def test_the_crop_of_a_region_without_area_is_padding(monkeypatch, way):
    matrices = np.full((1, 2, 3), np.nan)
    found = crops_by(way, monkeypatch, [picture()], "rgb", np.zeros(1, int), matrices, model_input_with())
    np.testing.assert_allclose(found[0].mean((1, 2)), (114 - np.array(MEAN)) / STD, atol=1e-3)


def test_no_crops(monkeypatch):
    found = crops_by(
        "torch", monkeypatch, [], "rgb", np.zeros(0, int), np.empty((0, 2, 3)), model_input_with()
    )
    assert found.shape == (0, 3, 64, 48)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 64, 48, 3), torch.float32), ((1, 3, 64, 48), torch.float64)]
)
def test_memory_of_another_shape_or_dtype_is_refused(shape, dtype):
    device = open_device("cpu")
    out = torch.empty(shape, dtype=dtype)
    with pytest.raises(EngineError, match="crops go into"):
        write_crops([], np.zeros(1, int), np.zeros((1, 2, 3)), model_input_with(), out, device.new_stream())
