"""Crops are made as the model wants them, wherever the engine has room for them."""

from __future__ import annotations

import numpy as np
import pytest

from engines.backends.base import put
from engines.estimators.crops import Crops
from engines.images.geometry import roi_matrices, warp
from tests.support.models.toy_models import model_input

IMAGES = [
    np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
    for seed, h, w in ((1, 80, 120), (2, 200, 90))
]
INDEX = np.array([1, 0, 1])
MATRICES = roi_matrices(np.array([(40, 60, 50, 40, 0.2), (60, 30, 64, 48, 0), (0, 0, 30, 30, 1)]), (64, 48))


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
@pytest.mark.parametrize(
    ("mean", "std"),
    [((0, 0, 0), (255, 255, 255)), ((127.5,) * 3, (127.5,) * 3), ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))],
)
def test_crops_come_as_the_model_wants_them(layout, colour, mean, std):
    crops = Crops(IMAGES, INDEX, MATRICES, model_input(layout=layout, colour=colour, mean=mean, std=std))
    batch = np.asarray(crops)
    pixels = np.stack([warp(IMAGES[i], m, (64, 48), 0) for i, m in zip(INDEX, MATRICES, strict=True)])
    expected = (pixels[..., :: -1 if colour == "bgr" else 1] - np.array(mean)) / np.array(std)
    if layout == "nchw":
        expected = expected.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(batch, expected, atol=1e-5)
    assert (crops.shape, crops.dtype, crops.nbytes, len(crops)) == (batch.shape, batch.dtype, batch.nbytes, 3)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_crops_go_where_an_engine_wants_them(layout):
    crops = Crops(IMAGES, INDEX, MATRICES, model_input(layout=layout))
    batch = np.asarray(crops)
    for items in (crops, batch):
        memory = np.full((2, *crops.shape[1:]), -1, np.float32)
        put(items, memory, 1)
        np.testing.assert_array_equal(memory, batch[1:])
        put(items, memory[:1], 2)
        np.testing.assert_array_equal(memory[0], batch[2])
    np.testing.assert_array_equal(np.asarray(crops[1:]), batch[1:])


def test_no_crops():
    assert np.asarray(Crops([], np.zeros(0, int), np.empty((0, 2, 3)), model_input())).shape == (0, 48, 64, 3)
