"""Crops from YUV planes equal crops from the converted picture, in every colour standard."""

from __future__ import annotations

import threading

import av
import cv2
import numpy as np
import pytest

from engines.images.geometry import warp
from engines.images.yuv import LUMA, YuvImage, rgb_matrix
from operators.decoding.frame_images import picture_of

# Y, U and V of pure red in limited range, from the tables of BT.601 and BT.709.
RED_601, RED_709 = (81, 90, 240), (63, 102, 240)


@pytest.mark.parametrize(
    ("standard", "full_range", "yuv", "rgb"),
    [
        ("bt601", False, (16, 128, 128), (0, 0, 0)),
        ("bt709", False, (235, 128, 128), (255, 255, 255)),
        ("bt2020", True, (77, 128, 128), (77, 77, 77)),
        ("bt601", False, RED_601, (255, 0, 0)),
        ("bt709", False, RED_709, (255, 0, 0)),
    ],
)
def test_matrices_give_the_standards_colours(standard, full_range, yuv, rgb):
    matrix = rgb_matrix(standard, full_range=full_range)
    np.testing.assert_allclose(matrix @ [*yuv, 1], rgb, atol=1.6)


def frame_of(picture: np.ndarray, colorspace: int, color_range: int) -> av.VideoFrame:
    """A frame as a decoder gives it, converted by swscale, which serves as the reference."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=colorspace, dst_color_range=color_range
    )
    frame.colorspace, frame.color_range = colorspace, color_range
    return frame


def smooth_picture(width: int, height: int) -> np.ndarray:
    """Colours that change slowly enough for halved colour planes."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("colorspace", [1, 5], ids=["bt709", "bt601"])
@pytest.mark.parametrize("color_range", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize("pad_value", ["edge", 0, 114])
def test_crops_of_planes_and_of_rgb_agree(colorspace, color_range, pad_value):
    image = picture_of(frame_of(smooth_picture(320, 240), colorspace, color_range))
    assert isinstance(image, YuvImage)
    turned = cv2.getRotationMatrix2D((300, 120), 25, 0.8)  # reaches out of the picture on the right
    turned[:, 2] += (-200, 10)
    from_planes = warp(image, turned, (160, 150), pad_value).astype(int)
    from_rgb = warp(image.rgb, turned, (160, 150), pad_value).astype(int)
    difference = np.abs(from_planes - from_rgb)
    assert difference.mean() < 1.2
    assert abs((from_planes - from_rgb).mean()) < 0.5  # neither is darker
    # Where the padding begins, halved colour planes end half a pixel off.
    assert np.percentile(difference, 98) <= 6


def test_much_reduced_crops_of_planes_and_of_rgb_agree():
    image = picture_of(frame_of(smooth_picture(960, 720), 5, 1))
    matrix = cv2.getRotationMatrix2D((480, 360), 10, 0.25)
    matrix[:, 2] -= (400, 280)
    difference = warp(image, matrix, (160, 160), "edge").astype(int) - warp(
        image.rgb, matrix, (160, 160), "edge"
    )
    assert np.abs(difference).mean() < 1.5
    assert abs(difference.mean()) < 0.2  # nearest samples are not shifted


def test_odd_sizes_keep_their_last_row_and_column():
    image = picture_of(frame_of(smooth_picture(641, 481), 5, 1))
    assert image.shape == image.rgb.shape == (481, 641, 3)
    unchanged = warp(image, np.eye(3)[:2], (641, 481), "edge").astype(int)
    assert np.abs(unchanged - image.rgb).mean() < 1.5


@pytest.mark.parametrize("pixels", ["yuv444p", "yuv422p", "gray", "yuv420p10le", "nv12"])
def test_other_layouts_become_rgb(pixels):
    frame = av.VideoFrame.from_ndarray(smooth_picture(64, 48), format="rgb24").reformat(format=pixels)
    assert isinstance(picture_of(frame), np.ndarray)


def test_the_picture_is_converted_once():
    conversions = []
    plane = np.zeros((4, 4), np.uint8)

    def convert() -> np.ndarray:
        conversions.append(1)
        return np.zeros((4, 4, 3), np.uint8)

    image = YuvImage(plane, plane[:2, :2], plane[:2, :2], rgb_matrix("bt601", full_range=False), convert)
    threads = [threading.Thread(target=lambda: image.rgb) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert conversions == [1]
    assert set(LUMA) == {"bt601", "bt709", "bt2020"}
