"""What refines a heatmap's peak below a cell: the cells around it, and how they are blurred."""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import numpy as np

# MMPose's `blur_kernel_size`, in cells; its published configs leave it at the default, whatever their sigma.
DARK_KERNEL = 11


class Window(NamedTuple):
    """What a refinement looks at: the cells around a peak, as they are, or blurred for their logarithm."""

    reach: int  # cells to each side
    blurred: bool = False
    lowest: float = 0.0  # limits of what the logarithm is taken of
    highest: float = np.inf


QUARTER = Window(1)
DARK = Window(2, blurred=True, lowest=1e-10)
DARK_UDP = Window(1, blurred=True, lowest=1e-3, highest=50)


@functools.cache
def gaussian() -> np.ndarray:
    """(DARK_KERNEL,) float32: what DARK blurs with, along each axis."""
    return np.asarray(cv2.getGaussianKernel(DARK_KERNEL, 0, cv2.CV_32F)).ravel()
