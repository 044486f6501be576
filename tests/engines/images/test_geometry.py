import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.images.geometry import (
    crop_to_frame,
    invert_affine,
    letterbox_matrix,
    roi_matrices,
    transform_points,
    warp,
)
from tests.support.models.toy_models import model_input

SIDE = st.integers(16, 4096)
SIZE = st.tuples(SIDE, SIDE)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def bilinear(image, matrix, size, pad):
    """`warp` in plain NumPy; pad None repeats the edge."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    at = transform_points(np.stack([x, y], axis=-1), invert_affine(matrix))
    low = np.floor(at).astype(int)
    part = at - low
    height, width = image.shape[:2]
    total = np.zeros((size[1], size[0], 3))
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = low[..., 0] + dx, low[..., 1] + dy
            pixel = image[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)].astype(float)
            if pad is not None:
                outside = (column < 0) | (row < 0) | (column >= width) | (row >= height)
                pixel[outside] = pad
            weight = np.abs(1 - dx - part[..., 0]) * np.abs(1 - dy - part[..., 1])
            total += pixel * weight[..., None]
    return total


@settings(deadline=None)
@given(image=SIZE, size=SIZE, placement=st.sampled_from(["centre", "top_left"]))
def test_a_letterbox_keeps_the_aspect_and_fits(image, size, placement):
    matrix = letterbox_matrix(image, model_input(size=size, placement=placement))
    corners = transform_points(np.array([[0, 0], image], float), matrix)
    extent = corners[1] - corners[0]
    assert matrix[0, 0] == matrix[1, 1]
    assert np.isclose(extent, size).any()
    assert (extent <= np.array(size) + 1e-6).all()
    middle = corners.mean(axis=0) - np.array(size) / 2
    np.testing.assert_allclose(middle if placement == "centre" else corners[0], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "size", "resized", "at"),
    [  # by ultralytics 8.4 itself: LetterBox.get_params, new_unpad and (left, top)
        ((500, 333), (320, 320), (320, 213), (0, 53)),
        ((640, 425), (320, 320), (320, 212), (0, 54)),
        ((640, 429), (320, 320), (320, 214), (0, 53)),
        ((810, 1080), (320, 320), (240, 320), (40, 0)),
        ((333, 500), (640, 640), (426, 640), (107, 0)),
        ((1000, 1), (64, 64), (64, 1), (0, 31)),
    ],
)
def test_a_letterbox_on_whole_px_is_that_of_ultralytics(image, size, resized, at):
    matrix = letterbox_matrix(image, model_input(size=size, placement="centre_px"))
    corners = transform_points(np.array([(0, 0), image], float), matrix)
    np.testing.assert_allclose(corners, [at, np.add(at, resized)], atol=1e-9)


@settings(deadline=None)
@given(image=SIZE, size=SIZE, placement=st.sampled_from(["centre", "centre_px", "top_left"]))
def test_letterbox_and_back(image, size, placement):
    matrix = letterbox_matrix(image, model_input(size=size, placement=placement))
    points = np.array([[0, 0], [image[0] / 3, image[1] / 7], image])
    back = transform_points(transform_points(points, matrix), invert_affine(matrix))
    np.testing.assert_allclose(back, points, atol=0.1)


ROI = st.tuples(
    *[st.floats(-500, 4500)] * 2, *[st.floats(8, 4000)] * 2, st.floats(-np.pi, np.pi)
)  # fmt: skip


@settings(deadline=None)
@given(rois=st.lists(ROI, max_size=4), size=SIZE)
def test_the_corners_of_a_region_fall_on_those_of_the_crop(rois, size):
    rois = np.array(rois).reshape(-1, 5)
    cos, sin = np.cos(rois[:, 4, None]), np.sin(rois[:, 4, None])
    x, y = rois[:, 2, None] * [-0.5, 0.5, 0.5, -0.5], rois[:, 3, None] * [-0.5, -0.5, 0.5, 0.5]
    corners = np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) + rois[:, None, :2]  # (N, 4, 2)
    crop = np.array([[0, 0], [size[0], 0], size, [0, size[1]]], float)
    np.testing.assert_allclose(
        transform_points(corners, roi_matrices(rois, size)), np.broadcast_to(crop, corners.shape), atol=0.1
    )


@settings(deadline=None)
@given(rois=st.lists(ROI, max_size=4), size=SIZE)
def test_region_and_back(rois, size):
    rois = np.array(rois, np.float32).reshape(-1, 5)
    points = np.random.default_rng(0).uniform(-100, 5000, (len(rois), 7, 2))
    back = transform_points(transform_points(points, roi_matrices(rois, size)), crop_to_frame(rois, size))
    np.testing.assert_allclose(back, points, atol=0.1)


@pytest.mark.parametrize("pad", ["edge", 0, 114])
@pytest.mark.parametrize(
    "roi",
    [(60, 40, 50, 50, 0.0), (60, 40, 90, 70, 0.7), (2, 3, 60, 60, -2.5), (-300, 10, 40, 40, 0.1)],
    ids=["upright", "turned", "over the corner", "outside"],
)
def test_a_warp_is_bilinear(roi, pad):
    image = cv2.GaussianBlur(noise(80, 120), (0, 0), 3)
    matrix = roi_matrices(np.array([roi]), (64, 48))[0]
    expected = bilinear(image, matrix, (64, 48), None if pad == "edge" else pad)
    # OpenCV before 5 rounds positions to 1/32 px: nothing inside a smooth image, but not where padding begins.
    step = 0 if pad == "edge" else np.abs(image.astype(float) - pad).max()
    difference = np.abs(warp(image, matrix, (64, 48), pad) - expected)
    assert difference.max() <= 1 + step / 32
    assert np.quantile(difference, 0.95) <= 1
