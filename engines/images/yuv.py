"""YUV frames as video decoders give them: one plane of brightness and two smaller planes of colour.

Models see small crops of large frames, so converting whole frames to RGB is mostly wasted work: at 1080x1920
it costs as much as decoding half a frame, and twice the memory traffic of the planes. Instead, crops are cut
from the planes and only the crops are converted. The whole frame is converted once, when its `rgb` is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np

# Weights of red and blue in the brightness, from the standards (ITU-T H.273, table 4).
LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}

# From this reduction factor on, neighbouring pixels of a crop are at least one colour sample apart. Taking
# the nearest sample instead of blending four then moves landmarks less than noise of one grey level does, and
# takes two thirds of the time.
SPARSE = 2.0


class YuvImage:
    """A picture in planes of 8 bits with halved colour (4:2:0); `rgb` converts it when first read.

    Args:
        y: (H, W) uint8; rows may be padded, as decoders leave them.
        u, v: (ceil(H / 2), ceil(W / 2)) uint8.
        matrix: (3, 4), RGB in 0..255 = matrix · (y, u, v, 1); see `rgb_matrix`.
        convert: converts the whole picture to RGB (H, W, 3) uint8.
    """

    __slots__ = ("_convert", "_lock", "_rgb", "matrix", "u", "v", "y")

    def __init__(
        self,
        y: np.ndarray,
        u: np.ndarray,
        v: np.ndarray,
        matrix: np.ndarray,
        convert: Callable[[], np.ndarray],
    ):
        self.y, self.u, self.v, self.matrix = y, u, v, matrix
        self._convert = convert
        self._rgb: np.ndarray | None = None
        self._lock = threading.Lock()  # several stages may read `rgb` at once

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3), the shape of `rgb`."""
        return (*self.y.shape, 3)  # type: ignore[return-value]

    @property
    def rgb(self) -> np.ndarray:
        """The whole picture, RGB (H, W, 3) uint8; the conversion is done once."""
        with self._lock:
            if self._rgb is None:
                self._rgb = self._convert()
            return self._rgb

    def warp(
        self, inverse: np.ndarray, size: tuple[int, int], pad_value: float | Literal["edge"]
    ) -> np.ndarray:
        """A crop, RGB (height, width, 3) uint8, bilinear; `inverse` (2, 3) maps its px to this picture's."""
        # A colour sample lies in the middle of 2x2 brightness samples, so its index is (x + 0.5) / 2 - 0.5.
        halved = inverse * 0.5
        halved[:, 2] -= 0.25
        sparse = abs(np.linalg.det(inverse[:, :2])) >= SPARSE**2
        edge = pad_value == "edge"
        border = cv2.BORDER_REPLICATE if edge else cv2.BORDER_CONSTANT
        grey = 0 if edge else brightness(self.matrix, float(pad_value))

        def part(plane: np.ndarray, matrix: np.ndarray, how: int, pad: float) -> np.ndarray:
            flags = how | cv2.WARP_INVERSE_MAP
            return cv2.warpAffine(plane, matrix, size, flags=flags, borderMode=border, borderValue=pad)

        self._prefetch(inverse, size)
        how = cv2.INTER_NEAREST if sparse else cv2.INTER_LINEAR
        y = part(self.y, inverse, cv2.INTER_LINEAR, grey)
        u, v = (part(plane, halved, how, 128) for plane in (self.u, self.v))
        return cv2.transform(cv2.merge([y, u, v]), self.matrix)

    def _prefetch(self, inverse: np.ndarray, size: tuple[int, int]) -> None:
        """Read the part of the planes that a warp will use, row by row, so that it is in the CPU's caches.

        By the time a frame is cropped it has left the caches, and a warp that crosses rows waits for memory
        at every step: after a model has run, a turned crop of 900 px takes 1.8 ms, with this 1.0 ms.
        """
        corners = inverse @ np.array([[0, size[0], size[0], 0], [0, 0, size[1], size[1]], [1, 1, 1, 1]])
        height, width = self.y.shape
        (x0, y0), (x1, y1) = (
            np.clip(corner, 0, (width, height)).astype(int) for corner in (corners.min(1), corners.max(1) + 1)
        )
        if x0 < x1 and y0 < y1:
            for plane, halved in ((self.y, 1), (self.u, 2), (self.v, 2)):
                cv2.countNonZero(plane[y0 // halved : -(-y1 // halved), x0 // halved : -(-x1 // halved)])


def brightness(matrix: np.ndarray, value: float) -> float:
    """The value of the brightness plane for a grey of `value`, by the (3, 4) matrix to RGB; colour is 128."""
    scale, u, v, shift = matrix[1]
    return round((value - shift - 128 * (u + v)) / scale)


def rgb_matrix(standard: str, *, full_range: bool) -> np.ndarray:
    """The (3, 4) float32 matrix from (y, u, v, 1) in 0..255 to RGB in 0..255, for a standard in `LUMA`.

    With limited range, brightness is in 16..235 and colour in 16..240 (ITU-R BT.601, BT.709).
    """
    red, blue = LUMA[standard]
    green = 1 - red - blue
    colour = np.array(  # for y in 0..1 and u, v in -0.5..0.5
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
            [1, 2 * (1 - blue), 0],
        ]
    )
    steps, black = ((255, 255, 255), 0) if full_range else ((219, 224, 224), 16)
    scaled = colour * 255 / np.array(steps)
    shift = -scaled @ np.array([black, 128, 128])
    return np.column_stack([scaled, shift]).astype(np.float32)
