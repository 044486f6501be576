"""Affine geometry between frames, regions of interest and model inputs; pure functions on arrays.

A matrix (2, 3) maps x, y in px of a frame to px of a model's input. The corners of a region fall on (0, 0),
(W, 0), (W, H) and (0, H) of the input, without half-pixel shifts, as in MediaPipe's ImageToTensorCalculator.
Matrices are float64: single precision would cost a tenth of a pixel on large frames.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from engines.images.model_input import Input
from engines.images.yuv import YuvImage

# The pipeline's stages already keep all cores busy; threads within a warp of 0.3 ms would only slow them.
cv2.setNumThreads(1)


def letterbox_matrix(image_size: tuple[int, int], model_input: Input) -> np.ndarray:
    """(2, 3): places the whole frame (width, height) inside the model's input, with its aspect kept."""
    width, height = image_size
    input_width, input_height = model_input.size
    scale = min(input_width / width, input_height / height)
    if model_input.placement == "centre_px":
        return _on_whole_px(image_size, model_input.size, scale)
    if model_input.placement == "top_left":
        offset = (0.0, 0.0)
    else:
        offset = ((input_width - width * scale) / 2, (input_height - height * scale) / 2)
    return np.array([[scale, 0.0, offset[0]], [0.0, scale, offset[1]]])


def _on_whole_px(image_size: tuple[int, int], size: tuple[int, int], scale: float) -> np.ndarray:
    """As ultralytics' LetterBox (data/augment.py); an odd px of padding goes to the right or the bottom."""
    matrix = np.zeros((2, 3))
    for axis in (0, 1):
        side = max(round(image_size[axis] * scale), 1)
        matrix[axis, axis] = side / image_size[axis]
        matrix[axis, 2] = round((size[axis] - side) / 2 - 0.1)
    return matrix


def roi_matrices(rois: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, 2, 3): from px of the frame to px of crops of `size` (width, height), for rotated regions (N, 5).

    A row is the centre x, y, the width and height in px, and the angle in rad, clockwise on the screen.
    """
    return invert_affine(crop_to_frame(rois, size))


def crop_to_frame(rois: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, 2, 3): from px of the crops to px of the frame, the inverse of `roi_matrices`."""
    centre_x, centre_y, width, height, angle = np.asarray(rois, np.float64).T
    cos, sin = np.cos(angle), np.sin(angle)
    matrices = np.empty((len(centre_x), 2, 3))
    matrices[:, 0, 0] = cos * width / size[0]
    matrices[:, 0, 1] = -sin * height / size[1]
    matrices[:, 0, 2] = centre_x - (cos * width - sin * height) / 2
    matrices[:, 1, 0] = sin * width / size[0]
    matrices[:, 1, 1] = cos * height / size[1]
    matrices[:, 1, 2] = centre_y - (sin * width + cos * height) / 2
    return matrices


def invert_affine(matrices: np.ndarray) -> np.ndarray:
    """The inverses of affine matrices (…, 2, 3)."""
    a, b, x = matrices[..., 0, 0], matrices[..., 0, 1], matrices[..., 0, 2]
    c, d, y = matrices[..., 1, 0], matrices[..., 1, 1], matrices[..., 1, 2]
    inverse = np.stack([d, -b, b * y - d * x, -c, a, c * x - a * y], axis=-1)
    inverse /= (a * d - b * c)[..., None]
    return inverse.reshape(*matrices.shape[:-2], 2, 3)


def transform_points(points: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Points (N, …, 2) mapped by one matrix (2, 3), or row by row by matrices (N, 2, 3); float64."""
    if matrices.ndim == 3:
        matrices = matrices.reshape(len(matrices), *(1,) * (points.ndim - 2), 2, 3)
    x, y = points[..., 0], points[..., 1]
    mapped = np.empty(points.shape)
    mapped[..., 0] = matrices[..., 0, 0] * x + matrices[..., 0, 1] * y + matrices[..., 0, 2]
    mapped[..., 1] = matrices[..., 1, 0] * x + matrices[..., 1, 1] * y + matrices[..., 1, 2]
    return mapped


def warp(
    image: np.ndarray | YuvImage,
    matrix: np.ndarray,
    size: tuple[int, int],
    pad_value: float | Literal["edge"],
) -> np.ndarray:
    """The part of an image, (H, W, 3) uint8 or YUV, that `matrix` maps to `size` (width, height), bilinear.

    Outside the image the result is `pad_value`, or the nearest pixel of the image's edge.
    """
    inverse = cv2.invertAffineTransform(matrix)  # OpenCV takes the map from the result to the image
    if isinstance(image, YuvImage):
        return image.warp(inverse, size, pad_value)
    edge = pad_value == "edge"
    return cv2.warpAffine(
        image,
        inverse,
        size,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE if edge else cv2.BORDER_CONSTANT,
        borderValue=(0.0, 0.0, 0.0) if edge else (float(pad_value),) * 3,
    )
