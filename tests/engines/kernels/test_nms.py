"""Suppression on a device keeps the boxes that OpenCV keeps on the host."""

from __future__ import annotations

import functools
import threading
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.device.devices import open_device  # noqa: E402
from engines.errors import EngineError  # noqa: E402
from engines.images.boxes import nms  # noqa: E402
from engines.kernels import nms as module  # noqa: E402
from engines.kernels.nms import suppress  # noqa: E402
from tests.support.devices.cuda_emulator import emulated  # noqa: E402

WAYS = [
    "emulated",
    "emulated backwards",
    pytest.param("gpu", marks=pytest.mark.gpu),
]


def kept_by(way, monkeypatch, boxes, scores, classes, max_iou):
    """The boxes that are kept, (B, M) bool, by the kernel on the emulator or a GPU."""
    device = open_device("cuda:0" if way == "gpu" else "cpu")
    if way != "gpu":
        launch = emulated("nms", module.PARAMETERS).launch
        kernel = SimpleNamespace(launch=functools.partial(launch, backwards="backwards" in way))
        monkeypatch.setattr(module, "kernel_for", lambda *_: kernel)
    stream = device.new_stream()
    with stream.use():
        given = [torch.from_numpy(array).to(device.torch_device) for array in (boxes, scores, classes)]
    kept = suppress(*given, max_iou, stream)
    assert (kept.shape, kept.dtype) == (scores.shape, torch.bool)
    return device.download({"": kept}, stream)[""]


def crowd(images, count, classes, seed=0):
    """Boxes, scores and classes as detectors give them: some seven boxes an object, some equal, some of equal score."""
    random = np.random.default_rng(seed)
    objects = random.uniform((0, 0, 20, 40), (1800, 1000, 200, 300), (images, max(count // 7, 1), 4))
    objects_of = random.integers(0, objects.shape[1], (images, count, 1))
    found = np.take_along_axis(objects, objects_of, 1) + random.normal(0, 8, (images, count, 4))
    found = np.concatenate([found[..., :2], found[..., :2] + np.abs(found[..., 2:])], 2)
    found[:, 1::9] = found[:, : len(found[0, 1::9])]
    scores = -np.sort(-np.round(random.uniform(0.05, 1, (images, count)), 2))
    return found.astype(np.float32), scores.astype(np.float32), random.integers(0, classes, (images, count))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("count", "classes", "max_iou"),
    [(1, 1, 0.5), (33, 2, 0.3), (300, 1, 0.7), (500, 80, 0.45), (1024, 3, 0.65)],
)
def test_the_same_boxes_are_kept_as_by_opencv(monkeypatch, way, count, classes, max_iou):
    boxes, scores, labels = crowd(2, count, classes)
    scores[1, count // 2 :] = 0  # the second image has fewer boxes, the rest is padding
    kept = kept_by(way, monkeypatch, boxes, scores, labels, max_iou)
    for i, real in enumerate((count, count // 2)):
        expected = nms(boxes[i, :real], scores[i, :real], labels[i, :real], max_iou)
        np.testing.assert_array_equal(np.flatnonzero(kept[i]), np.sort(expected))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("boxes", "max_iou"),
    [
        ([(0, 0, 10, 10), (0, 0, 10, 5)], 0.5),  # an overlap of exactly the limit suppresses nothing
        ([(0, 0, 10, 10), (0, 0, 10, 5)], 0.49),
        ([(0, 0, 10, 10), (10, 0, 20, 10), (0, 10, 10, 20)], 0.0),  # the boxes touch
        ([(5, 5, 5, 5), (7, 7, 7, 7), (0, 0, 10, 10)], 0.5),  # without area
        ([(-20, -20, -5, -5), (-18, -18, 2, 2), (-20, -20, -4, -5)], 0.2),
    ],
)
def test_boxes_at_the_limit(monkeypatch, way, boxes, max_iou):
    given = (
        np.array([boxes], np.float32),
        np.full((1, len(boxes)), 0.9, np.float32),
        np.zeros((1, len(boxes)), int),
    )
    kept = kept_by(way, monkeypatch, *given, max_iou)
    expected = nms(*(array[0] for array in given), max_iou)
    np.testing.assert_array_equal(np.flatnonzero(kept[0]), np.sort(expected))


@pytest.mark.parametrize("way", WAYS)
def test_a_suppressed_box_suppresses_no_other(monkeypatch, way):
    """In a long row each box overlaps only its neighbours, so every second box is kept."""
    starts = np.arange(200, dtype=np.float32) * 4
    boxes = np.stack([starts, 0 * starts, starts + 10, 0 * starts + 10], 1)[None]
    scores = np.linspace(1, 0.5, 200, dtype=np.float32)[None]
    kept = kept_by(way, monkeypatch, boxes, scores, np.zeros((1, 200), int), 0.4)
    np.testing.assert_array_equal(kept[0], np.arange(200) % 2 == 0)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_nothing_to_suppress(monkeypatch, shape):
    given = (np.zeros((*shape, 4), np.float32), np.zeros(shape, np.float32), np.zeros(shape, int))
    assert kept_by("emulated", monkeypatch, *given, 0.5).shape == shape


def test_more_boxes_than_threads_are_refused(monkeypatch):
    with pytest.raises(EngineError, match="2000 boxes an image, at most 1024"):
        kept_by("emulated", monkeypatch, *crowd(1, 2000, 1), 0.5)


@pytest.mark.gpu
def test_a_thread_that_has_not_used_cuda_before(monkeypatch):
    found = []
    given = crowd(1, 100, 1)
    thread = threading.Thread(target=lambda: found.append(kept_by("gpu", monkeypatch, *given, 0.5)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(np.flatnonzero(found[0][0]), np.sort(nms(*(a[0] for a in given), 0.5)))
