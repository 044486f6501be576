"""The planes of a frame, NV12, I420 or RGB: their shapes, their places in memory, and their conversion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from engines.device.transfers import align_up
from engines.errors import EngineError

if TYPE_CHECKING:
    import torch

Layout = Literal["nv12", "i420", "rgb"]

LAYOUTS: dict[int, Layout] = {1: "rgb", 2: "nv12", 3: "i420"}  # by the number of planes


class LayoutError(EngineError):
    """Planes that surfaces cannot hold, such as 10 bit; the decoder on the CPU can convert them."""


def layout_of(planes: Sequence[torch.Tensor | np.ndarray]) -> Layout:
    """The layout of planes, of the host or a device.

    Raises:
        LayoutError: they are not 8 bit, or not NV12, I420 or RGB.
    """
    shapes = [tuple(plane.shape) for plane in planes]
    dtypes = {str(plane.dtype).removeprefix("torch.") for plane in planes}
    layout = LAYOUTS.get(len(planes))
    if layout is None or dtypes != {"uint8"} or shapes != plane_shapes(layout, shapes[0][1::-1]):
        raise LayoutError(
            f"planes {shapes} of {' and '.join(sorted(dtypes))} do not fit a surface, expected uint8 as "
            "NV12, I420 or RGB; decode such frames on the CPU (device: cpu), which converts them"
        )
    return layout


def plane_shapes(layout: Layout, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """The shapes of the planes of a frame of `size` (width, height)."""
    width, height = size
    chroma = (-(-height // 2), -(-width // 2))
    if layout == "rgb":
        return [(height, width, 3)]
    return [(height, width), (*chroma, 2)] if layout == "nv12" else [(height, width), chroma, chroma]


def frame_bytes(layout: Layout, size: tuple[int, int]) -> int:
    """Bytes of memory for a frame of `size` (width, height), each plane aligned."""
    return sum(align_up(int(np.prod(shape))) for shape in plane_shapes(layout, size))


def planes_in(memory: torch.Tensor, layout: Layout, size: tuple[int, int]) -> list[torch.Tensor]:
    """Views of the planes in `memory`, (frame_bytes,) uint8, of the host or a device."""
    planes, start = [], 0
    for shape in plane_shapes(layout, size):
        count = int(np.prod(shape))
        planes.append(memory[start : start + count].view(shape))
        start += align_up(count)
    return planes


def planes_to_rgb(planes: Sequence[np.ndarray], matrix: np.ndarray | None) -> np.ndarray:
    """RGB (H, W, 3) uint8 of planes on the host; `matrix` as `YuvImage.matrix`, None for RGB.

    Each chroma sample covers 2x2 px, as in swscale's conversion, which makes `Packet.image` where frames are
    decoded on the CPU. The two differ by at most 2 of 255, on average by 0.1 to 0.3: measured with noise in
    BT.601, BT.709 and BT.2020, of full and of limited range, with the matrices of `frame_images`. Only for an
    odd height swscale interpolates the chroma: then they differ by 1.8 on average, measured with smooth
    colours.
    """
    y = planes[0]
    if matrix is None:
        return y
    height, width = y.shape
    chroma = [
        cv2.resize(plane, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)[:height, :width]
        for plane in (cv2.split(planes[1]) if len(planes) == 2 else planes[1:])
    ]
    return cv2.transform(cv2.merge([y, *chroma]), matrix)
