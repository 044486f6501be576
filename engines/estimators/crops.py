"""Crops of images as a model's input, written straight into the engine's memory where possible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from engines.device.arrays import Array, to_host
from engines.device.devices import open_device, thread_stream
from engines.device.image import DeviceImage, Image
from engines.images.geometry import warp
from engines.images.model_input import Input

if TYPE_CHECKING:
    import torch

    from engines.device.streams import Stream


class Crops:
    """A batch of N crops, cut out of many images only when an engine asks for them.

    Crop n is the part of `images[image_index[n]]` that `matrices[n]` maps to the model's input, normalised.
    An engine with memory of its own has the crops written there: it calls `write`, or `write_on_device` on a
    GPU. All others, and NumPy, take the batch as an array: `np.asarray(crops)`.

    Args:
        images: RGB, (H, W, 3) uint8, or YUV, of any sizes; or in a device's memory.
        image_index: (N,), the image of each crop; N may be 0.
        matrices: (N, 2, 3), from px of the image to px of the input.
        model_input: size, layout and normalisation of the crops.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        images: Sequence[Image],
        image_index: np.ndarray,
        matrices: np.ndarray,
        model_input: Input,
    ):
        self.images, self.image_index, self.matrices = images, image_index, matrices
        self.input = model_input
        self._scale, self._bias = model_input.scale_and_bias()

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, 3) or (N, 3, H, W)."""
        width, height = self.input.size
        one = (3, height, width) if self.input.layout == "nchw" else (height, width, 3)
        return (len(self.matrices), *one)

    @property
    def nbytes(self) -> int:
        """Size of the whole batch."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def device(self) -> str | None:
        """The device of the images, as torch names it (cuda:0); None unless all of them lie on a device."""
        if not self.images or not all(isinstance(image, DeviceImage) for image in self.images):
            return None
        return self.images[0].device.name  # type: ignore[union-attr]  # each is a DeviceImage

    def __len__(self) -> int:
        return len(self.matrices)

    def __getitem__(self, part: slice) -> Crops:
        crops = copy(self)
        crops.image_index, crops.matrices = self.image_index[part], self.matrices[part]
        return crops

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        batch = np.empty(self.shape, self.dtype)
        self.write(batch)
        return batch if dtype is None else batch.astype(dtype, copy=False)

    def made(self) -> Array:
        """The batch: a tensor, ready on this thread's stream, if all images are on a device; or an array."""
        return self._on_device(slice(None)) if self.device else np.asarray(self)

    def write(self, out: np.ndarray, first: int = 0) -> None:
        """Write the crops from number `first` on into `out` (n, …) float32, as many as fit.

        If the images lie on a device, the crops are cut there and downloaded; this waits for the device.
        """
        if self.device:
            crops = to_host({"crops": self._on_device(slice(first, first + len(out)))})["crops"]
            out[: len(crops)] = crops
            return
        for crop, n in zip(out, range(first, len(self)), strict=False):
            image, model_input = self.images[self.image_index[n]], self.input
            if isinstance(image, DeviceImage):
                image = image.rgb
            pixels = warp(image, self.matrices[n], model_input.size, model_input.pad_value)
            self._normalise(pixels, crop)

    def write_on_device(self, out: torch.Tensor, stream: Stream, first: int = 0) -> None:
        """Cut the crops from number `first` on into `out` (n, …) on a device, as many as fit.

        All images must lie on devices; those on another device are copied to that of `out` first.

        Args:
            out: float32 or float16.
            first: the crop for its first row.
            stream: of the device of `out`; all work is queued on it, and the host does not wait.
        """
        from engines.kernels.crop import write_crops

        part = slice(first, first + len(out))
        used, index = np.unique(self.image_index[part], return_inverse=True)
        device = open_device(str(out.device))
        images = [self.images[i].on(device, stream) for i in used]  # type: ignore[union-attr]
        write_crops(images, index, self.matrices[part], self.input, out[: len(index)], stream)

    def _on_device(self, part: slice) -> torch.Tensor:
        import torch

        assert self.device
        device, crops = open_device(self.device), self[part]
        stream = thread_stream(device)
        with stream.use():
            out = torch.empty(crops.shape, device=device.torch_device)
        crops.write_on_device(out, stream)
        return out

    def _normalise(self, pixels: np.ndarray, out: np.ndarray) -> None:
        """(x - mean) / std of (H, W, 3) uint8 RGB, as one multiply-add, in the model's layout."""
        bgr = self.input.colour == "bgr"
        if self.input.layout == "nchw":
            planes = cv2.split(pixels)  # plane by plane is twice as fast as all three at once
            for plane, scale, bias, to in zip(
                planes[::-1] if bgr else planes, self._scale, self._bias, out, strict=True
            ):
                np.multiply(plane, scale, out=to)
                to += bias
            return
        same = len({*self._scale}) == len({*self._bias}) == 1  # a scalar is twice as fast as an array
        np.multiply(
            cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if bgr else pixels,
            self._scale[0] if same else self._scale,
            out=out,
        )
        if np.any(self._bias):
            out += self._bias[0] if same else self._bias
