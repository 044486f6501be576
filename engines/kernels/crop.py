"""Crops of frames on a device, straight into an engine's input there: one kernel, or PyTorch's operations.

The reference is the path on the host (`images.crops.Crops`, `images.yuv.YuvImage.warp`), roundings to 8 bit
included; both ways here do the same operations in the same order, so that they give the same bits.
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
BLOCK = (32, 8, 1)  # threads: a row of 32 px reads and writes memory that lies side by side
NEUTRAL = 128  # the colour of greys
OUTSIDE = -2.0
RGB = np.eye(3, 4, dtype=np.float32)

# The structures of kernels/crop.cu, which says what the fields are.
SURFACE = np.dtype(
    [
        ("channels", np.uintp, 3),
        ("pitches", np.int32, 3),
        ("steps", np.int32, 3),
        ("width", np.int32),
        ("height", np.int32),
        ("halved", np.int32),
        ("pads", np.float32, 3),
        ("matrix", np.float32, (3, 4)),
    ],
    align=True,
)
CROP = np.dtype([("inverse", np.float32, (2, 3)), ("surface", np.int32), ("sparse", np.int32)], align=True)
WORK = np.dtype(
    [
        ("out", np.uintp),
        ("strides", np.int64, 4),
        ("width", np.int32),
        ("height", np.int32),
        ("half", np.int32),
        ("bgr", np.int32),
        ("edge", np.int32),
        ("scale", np.float32, 3),
        ("bias", np.float32, 3),
        ("crops", CROP, CROPS),
        ("surfaces", SURFACE, SURFACES),
    ],
    align=True,
)

Channels = list[torch.Tensor]  # three of (h, w) uint8, the second and third perhaps halved


def cut(
    images: Sequence[DeviceImage],
    image_index: np.ndarray,
    matrices: np.ndarray,
    model_input: Input,
    out: torch.Tensor,
    stream: Stream,
) -> None:
    """Write N crops, normalised, into `out`, as part of a stream; the host does not wait.

    Args:
        images: frames on the device of `out`, of any sizes.
        image_index: (N,), the image that a crop is of; N may be 0.
        matrices: (N, 2, 3) float64, from px of the image to px of the input.
        model_input: what the model wants.
        out: (N, 3, H, W) or (N, H, W, 3), as its layout says, float32 or float16, with any strides.
        stream: of the same device; it waits for the images, and they for it before they are overwritten.

    Raises:
        EngineError: `out` is another one, or CUDA refuses.
    """
    _check(out, len(matrices), model_input)
    if not len(matrices):
        return
    distinct = {i: n for n, i in enumerate(dict.fromkeys(image_index.tolist()))}
    inverses = _inverses(matrices)
    crops = np.zeros(len(matrices), CROP)
    crops["inverse"], crops["surface"] = inverses, [distinct[i] for i in image_index.tolist()]
    crops["sparse"] = np.abs(np.linalg.det(inverses[:, :, :2])) >= SPARSE**2
    with reading([images[i] for i in distinct], stream) as planes:
        surfaces = _surfaces(planes, [images[i] for i in distinct], model_input.pad_value)
        fused = kernel_for(out, "crop", WORK)
        if fused:
            for work, count in _works(crops, surfaces, model_input, out):
                _launch(fused, work, count, stream)
            return
        with stream.use():
            for crop, to in zip(crops, out, strict=True):
                n = crop["surface"]
                _cut_one(_channels(planes[n]), surfaces[n], crop, model_input, to)


def _works(
    crops: np.ndarray, surfaces: np.ndarray, model_input: Input, out: torch.Tensor
) -> Iterator[tuple[np.ndarray, int]]:
    """The parameters of the kernel, launch by launch, and the number of crops of each."""
    nchw = model_input.layout == "nchw"
    work = np.zeros((), WORK)
    work["strides"] = [out.stride(axis) for axis in ((0, 1, 2, 3) if nchw else (0, 3, 1, 2))]
    work["width"], work["height"] = model_input.size
    work["half"] = out.dtype == torch.float16
    work["bgr"] = model_input.colour == "bgr"
    work["edge"] = model_input.pad_value == "edge"
    work["scale"], work["bias"] = model_input.scale_and_bias()
    index = crops["surface"].tolist()
    for start, stop, table in _launches(index):
        count = stop - start
        work["out"] = out[start].data_ptr()
        work["crops"][:count] = crops[start:stop]
        work["crops"]["surface"][:count] = [table[i] for i in index[start:stop]]
        work["surfaces"][: len(table)] = surfaces[list(table)]
        yield work, count


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
    # A region without size has no inverse, and OpenCV finds nothing but padding in it: so do we.
    inverses[~np.isfinite(inverses)] = OUTSIDE
    return inverses


def _channels(planes: Sequence[torch.Tensor]) -> Channels:
    """Views of a frame's planes: RGB in one, NV12 in two, I420 in three."""
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
    # By column, and in Python where it can be: this is done for every frame.
    channels, pitches, steps = zip(*map(_layout, planes), strict=True)
    described["channels"], described["pitches"], described["steps"] = channels, pitches, steps
    described["width"] = [image.shape[1] for image in images]
    described["height"] = [image.shape[0] for image in images]
    described["halved"] = [image.matrix is not None for image in images]
    described["matrix"] = [RGB if image.matrix is None else image.matrix for image in images]
    matrices = {id(image.matrix): image.matrix for image in images}  # most share one
    pads = {key: _pads(matrix, pad) for key, matrix in matrices.items()}
    described["pads"] = [pads[id(image.matrix)] for image in images]
    return described


def _layout(planes: Sequence[torch.Tensor]) -> tuple[list[int], list[int], list[int]]:
    """Of each channel of a frame: the address, the bytes from row to row, and those from sample to sample."""
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
    """What lies around a frame, by channel."""
    values = [pad] * 3 if matrix is None else [brightness(matrix, pad), NEUTRAL, NEUTRAL]
    return [min(max(round(value), 0), 255) for value in values]


def _launches(index: list[int]) -> Iterator[tuple[int, int, dict[int, int]]]:
    """The parts (start, stop) of crops that go into one launch each, and the place of each surface there."""
    start, table = 0, dict[int, int]()
    for n, surface in enumerate(index):
        if n - start == CROPS or (surface not in table and len(table) == SURFACES):
            yield start, n, table
            start, table = n, {}
        table.setdefault(surface, len(table))
    yield start, len(index), table


def _launch(fused: Kernel, work: np.ndarray, count: int, stream: Stream) -> None:
    across, down = -(-int(work["width"]) // BLOCK[0]), -(-int(work["height"]) // BLOCK[1])
    fused.launch((across, down, count), BLOCK, work, stream.handle)


def _cut_one(
    channels: Channels, surface: np.void, crop: np.void, model_input: Input, out: torch.Tensor
) -> None:
    """One crop with PyTorch's operations; the same, operation by operation, as kernels/crop.cu."""
    (a, b, c), (d, e, f) = crop["inverse"].tolist()
    width, height = model_input.size
    x = torch.arange(width, dtype=torch.float32, device=out.device)
    y = torch.arange(height, dtype=torch.float32, device=out.device)[:, None]
    at = (a * x + b * y + c, d * x + e * y + f)  # (H, W) each
    halved = (at[0] * 0.5 - 0.25, at[1] * 0.5 - 0.25) if surface["halved"] else at
    nearest = bool(surface["halved"] and crop["sparse"])
    pads = [None] * 3 if model_input.pad_value == "edge" else surface["pads"].tolist()
    first = _taken(channels[0], *at, pads[0], nearest=False)
    second, third = (_taken(channels[i], *halved, pads[i], nearest=nearest) for i in (1, 2))
    rgb = [
        (m[0] * first + m[1] * second + m[2] * third + m[3]).clamp(0, 255).round()
        for m in surface["matrix"].tolist()
    ]
    scale, bias = (values.tolist() for values in model_input.scale_and_bias())
    for i, values in enumerate(reversed(rgb) if model_input.colour == "bgr" else rgb):
        channel = out[i] if model_input.layout == "nchw" else out[..., i]
        channel.copy_(values * scale[i] + bias[i])


def _taken(
    channel: torch.Tensor, x: torch.Tensor, y: torch.Tensor, pad: float | None, *, nearest: bool
) -> torch.Tensor:
    """(H, W) float32: a channel at points of its plane, in 8 bit; without `pad` its edge is repeated."""
    height, width = channel.shape
    x, y = x.clamp(-2, width + 1), y.clamp(-2, height + 1)  # so that indices fit

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
