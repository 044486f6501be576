"""Crops of frames on a device, written straight into an engine's input: by a kernel, or by PyTorch.

The reference is the path on the host (`estimators.crops.Crops`, `images.yuv.YuvImage.warp`), 8 bit roundings
included. The kernel and PyTorch do the same operations in the same order, so both give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from engines.device.image import DeviceImage, reading
from engines.device.streams import Stream
from engines.errors import EngineError
from engines.images.geometry import invert_affine
from engines.images.model_input import Input
from engines.images.yuv import SPARSE, brightness
from engines.kernels.nvrtc import Kernel, kernel_for

CROPS, SURFACES = 32, 16  # in one launch, as in kernels/crop.cu
# Threads: the 32 of a warp make neighbouring px of a row, so their memory accesses coalesce.
BLOCK = (32, 8, 1)
GREY_CHROMA = 128  # U and V of all greys
OUTSIDE = -2.0  # a position that is outside every frame, px
RGB = np.eye(3, 4, dtype=np.float32)

# The structures of kernels/crop.cu, where the fields are explained.
SURFACE = np.dtype(
    [
        ("channels", np.uintp, 3),
        ("pitches", np.int32, 3),
        ("steps", np.int32, 3),
        ("width", np.int32),
        ("height", np.int32),
        ("subsampled", np.int32),
        ("pads", np.float32, 3),
        ("matrix", np.float32, (3, 4)),
    ],
    align=True,
)
CROP = np.dtype(
    [("inverse", np.float32, (2, 3)), ("surface", np.int32), ("nearest_chroma", np.int32)], align=True
)
PARAMETERS = np.dtype(
    [
        ("out", np.uintp),
        ("strides", np.int64, 4),
        ("width", np.int32),
        ("height", np.int32),
        ("float16", np.int32),
        ("bgr", np.int32),
        ("repeat_edge", np.int32),
        ("scale", np.float32, 3),
        ("bias", np.float32, 3),
        ("crops", CROP, CROPS),
        ("surfaces", SURFACE, SURFACES),
    ],
    align=True,
)

Channels = list[torch.Tensor]  # three of (h, w) uint8; U and V may be subsampled


def write_crops(
    images: Sequence[DeviceImage],
    image_index: np.ndarray,
    matrices: np.ndarray,
    model_input: Input,
    out: torch.Tensor,
    stream: Stream,
) -> None:
    """Write N crops, normalised, into `out`, as work of a stream; the host does not wait.

    Args:
        images: frames on the device of `out`, of any sizes.
        image_index: (N,), the index in `images` of the frame of each crop; N may be 0.
        matrices: (N, 2, 3) float64, from px of the image to px of the input.
        model_input: the size, layout, colours and normalisation that the model takes.
        out: (N, 3, H, W) or (N, H, W, 3) by the input's layout, float32 or float16, with any strides.
        stream: a stream of the same device. It waits for the images, and they are not overwritten before it
            has read them.

    Raises:
        EngineError: `out` has another shape or dtype, or CUDA refuses the launch.
    """
    _check(out, len(matrices), model_input)
    if not len(matrices):
        return
    used = {i: n for n, i in enumerate(dict.fromkeys(image_index.tolist()))}
    inverses = _inverses(matrices)
    crops = np.zeros(len(matrices), CROP)
    crops["inverse"], crops["surface"] = inverses, [used[i] for i in image_index.tolist()]
    crops["nearest_chroma"] = np.abs(np.linalg.det(inverses[:, :, :2])) >= SPARSE**2
    with reading([images[i] for i in used], stream) as planes:
        surfaces = _surfaces(planes, [images[i] for i in used], model_input.pad_value)
        kernel = kernel_for(out, "crop", PARAMETERS)
        if kernel:
            for params, count in _launch_parameters(crops, surfaces, model_input, out):
                _launch(kernel, params, count, stream)
            return
        with stream.use():
            for crop, to in zip(crops, out, strict=True):
                n = crop["surface"]
                _write_crop_with_pytorch(_channels(planes[n]), surfaces[n], crop, model_input, to)


def _launch_parameters(
    crops: np.ndarray, surfaces: np.ndarray, model_input: Input, out: torch.Tensor
) -> Iterator[tuple[np.ndarray, int]]:
    """The kernel's parameters for each launch, and the number of its crops; the array is reused."""
    nchw = model_input.layout == "nchw"
    params = np.zeros((), PARAMETERS)
    params["strides"] = [out.stride(axis) for axis in ((0, 1, 2, 3) if nchw else (0, 3, 1, 2))]
    params["width"], params["height"] = model_input.size
    params["float16"] = out.dtype == torch.float16
    params["bgr"] = model_input.colour == "bgr"
    params["repeat_edge"] = model_input.pad_value == "edge"
    params["scale"], params["bias"] = model_input.scale_and_bias()
    index = crops["surface"].tolist()
    for start, stop, places in _launches(index):
        count = stop - start
        params["out"] = out[start].data_ptr()
        params["crops"][:count] = crops[start:stop]
        params["crops"]["surface"][:count] = [places[i] for i in index[start:stop]]
        params["surfaces"][: len(places)] = surfaces[list(places)]
        yield params, count


def _check(out: torch.Tensor, count: int, model_input: Input) -> None:
    width, height = model_input.size
    one = (3, height, width) if model_input.layout == "nchw" else (height, width, 3)
    if tuple(out.shape) != (count, *one) or out.dtype not in (torch.float32, torch.float16):
        raise EngineError(
            f"crops go into {(count, *one)} float32 or float16, not into {tuple(out.shape)} {out.dtype}"
        )


def _inverses(matrices: np.ndarray) -> np.ndarray:
    """(N, 2, 3) float64, from px of the input to px of the image."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inverses = invert_affine(matrices)
    # A region without area has no inverse. OpenCV fills its crop with padding, so this does the same.
    inverses[~np.isfinite(inverses)] = OUTSIDE
    return inverses


def _channels(planes: Sequence[torch.Tensor]) -> Channels:
    """Views of a frame's three channels: RGB has one plane, NV12 two, I420 three."""
    if len(planes) == 1:
        return [planes[0][..., i] for i in range(3)]
    if len(planes) == 2:
        return [planes[0], planes[1][..., 0], planes[1][..., 1]]
    return list(planes)


def _surfaces(
    planes: Sequence[Sequence[torch.Tensor]], images: Sequence[DeviceImage], pad_value: float | str
) -> np.ndarray:
    """A `SURFACE` for each image."""
    pad = 0.0 if pad_value == "edge" else float(pad_value)
    described = np.zeros(len(images), SURFACE)
    # Field by field from Python lists: this runs for every frame, and NumPy is slow on small arrays.
    channels, pitches, steps = zip(*map(_addresses, planes), strict=True)
    described["channels"], described["pitches"], described["steps"] = channels, pitches, steps
    described["width"] = [image.shape[1] for image in images]
    described["height"] = [image.shape[0] for image in images]
    described["subsampled"] = [image.matrix is not None for image in images]
    described["matrix"] = [RGB if image.matrix is None else image.matrix for image in images]
    matrices = {id(image.matrix): image.matrix for image in images}  # most share one
    pads = {key: _pads(matrix, pad) for key, matrix in matrices.items()}
    described["pads"] = [pads[id(image.matrix)] for image in images]
    return described


def _addresses(planes: Sequence[torch.Tensor]) -> tuple[list[int], list[int], list[int]]:
    """The address of each channel, its bytes from row to row, and its bytes from sample to sample."""
    first, second = planes[0], planes[-1]
    if len(planes) == 3:  # I420
        places, rows = [plane.data_ptr() for plane in planes], [plane.stride(0) for plane in planes]
        return places, rows, [plane.stride(1) for plane in planes]
    place, rows, steps = second.data_ptr(), [first.stride(0)], [first.stride(1)]
    if len(planes) == 2:  # NV12
        places = [first.data_ptr(), place, place + second.stride(2)]
        return places, rows + 2 * [second.stride(0)], steps + 2 * [second.stride(1)]
    return [place + i * first.stride(2) for i in range(3)], 3 * rows, 3 * steps


def _pads(matrix: np.ndarray | None, pad: float) -> list[int]:
    """The value of each channel outside the frame, 8 bit."""
    values = [pad] * 3 if matrix is None else [brightness(matrix, pad), GREY_CHROMA, GREY_CHROMA]
    return [min(max(round(value), 0), 255) for value in values]


def _launches(index: list[int]) -> Iterator[tuple[int, int, dict[int, int]]]:
    """Split crops into launches: (start, stop) of each, and the places of the surfaces in its parameters."""
    start, places = 0, dict[int, int]()
    for n, surface in enumerate(index):
        if n - start == CROPS or (surface not in places and len(places) == SURFACES):
            yield start, n, places
            start, places = n, {}
        places.setdefault(surface, len(places))
    yield start, len(index), places


def _launch(kernel: Kernel, params: np.ndarray, count: int, stream: Stream) -> None:
    across, down = -(-int(params["width"]) // BLOCK[0]), -(-int(params["height"]) // BLOCK[1])
    kernel.launch((across, down, count), BLOCK, params, stream.handle)


def _write_crop_with_pytorch(
    channels: Channels, surface: np.void, crop: np.void, model_input: Input, out: torch.Tensor
) -> None:
    """Write one crop with PyTorch's operations: the same as kernels/crop.cu, operation by operation."""
    (a, b, c), (d, e, f) = crop["inverse"].tolist()
    width, height = model_input.size
    x = torch.arange(width, dtype=torch.float32, device=out.device)
    y = torch.arange(height, dtype=torch.float32, device=out.device)[:, None]
    frame = (a * x + b * y + c, d * x + e * y + f)  # x and y, (H, W) each
    chroma = (frame[0] * 0.5 - 0.25, frame[1] * 0.5 - 0.25) if surface["subsampled"] else frame
    nearest = bool(surface["subsampled"] and crop["nearest_chroma"])
    pads = [None] * 3 if model_input.pad_value == "edge" else surface["pads"].tolist()
    first = _interpolate(channels[0], *frame, pads[0], nearest=False)
    second, third = (_interpolate(channels[i], *chroma, pads[i], nearest=nearest) for i in (1, 2))
    rgb = [
        (m[0] * first + m[1] * second + m[2] * third + m[3]).clamp(0, 255).round()
        for m in surface["matrix"].tolist()
    ]
    scale, bias = (values.tolist() for values in model_input.scale_and_bias())
    for i, values in enumerate(reversed(rgb) if model_input.colour == "bgr" else rgb):
        channel = out[i] if model_input.layout == "nchw" else out[..., i]
        channel.copy_(values * scale[i] + bias[i])


def _interpolate(
    channel: torch.Tensor, x: torch.Tensor, y: torch.Tensor, pad: float | None, *, nearest: bool
) -> torch.Tensor:
    """(H, W) float32: a channel at points of its plane, in 8 bit; without `pad`, its edge is repeated."""
    height, width = channel.shape
    x, y = x.clamp(-2, width + 1), y.clamp(-2, height + 1)  # far outside, indices would overflow

    def sample(column: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        inside_x, inside_y = column.clamp(0, width - 1), row.clamp(0, height - 1)
        values = channel[inside_y, inside_x].float()
        return values if pad is None else values.where((inside_x == column) & (inside_y == row), pad)

    if nearest:
        return sample(x.round().long(), y.round().long())
    left, top = x.floor(), y.floor()
    right_part, lower_part = x - left, y - top
    column, row = left.long(), top.long()
    upper_left, upper_right = sample(column, row), sample(column + 1, row)
    lower_left, lower_right = sample(column, row + 1), sample(column + 1, row + 1)
    upper = upper_left + right_part * (upper_right - upper_left)
    lower = lower_left + right_part * (lower_right - lower_left)
    return (upper + lower_part * (lower - upper)).round()
