"""Read YOLOX's output: a prediction for each cell of three grids, decoded and suppressed here.

Ge et al., "YOLOX: Exceeding YOLO Series in 2021" (arXiv:2107.08430).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.codecs.detections import Detections, Reduced, pack
from engines.contracts.contract import Contract, YoloxCodec
from engines.device.arrays import Array, Outputs, constant, is_tensor, namespace, single
from engines.images.boxes import nms

if TYPE_CHECKING:
    from engines.device.streams import Stream


def reduce(
    outputs: Outputs, contract: Contract, min_score: float, nms_iou: float, stream: Stream | None = None
) -> Reduced:
    """The detections of each image as `engines.codecs.detections.finish` wants them.

    Args:
        outputs: `predictions` (B, cells, 5 + C): x, y from the cell's corner in cells, log width and log
            height in cells, objectness, and C class scores, both between 0 and 1; arrays or tensors.
        contract: gives input size and strides.
        min_score: of objectness times the best class score.
        nms_iou: of two boxes of a class that overlap more, the better one stays.
        stream: the current one, if the outputs are tensors.
    """
    assert isinstance(contract.codec, YoloxCodec)
    predictions, size = outputs["predictions"], contract.input.size
    strides = tuple(contract.codec.strides)
    if is_tensor(predictions):
        grid = _grid_on(predictions.device, size, strides)
        return _reduce_tensors(predictions, grid, min_score, nms_iou, stream)
    grid = _grid(size, strides)
    return pack([_decode_image(single(one), grid, min_score, nms_iou) for one in predictions])


def _decode_image(predictions: np.ndarray, grid: np.ndarray, min_score: float, nms_iou: float) -> Detections:
    rows = np.flatnonzero(predictions[:, 4] >= min_score)  # no score exceeds its objectness
    found = predictions[rows]  # (n, 5 + C)
    classes = found[:, 5:].argmax(axis=1)
    scores = found[:, 4] * found[:, 5:].max(axis=1)
    good = scores >= min_score
    rows, found, classes, scores = rows[good], found[good], classes[good], scores[good]
    boxes = _boxes(found[:, :4], grid[rows])
    kept = nms(boxes, scores, classes, nms_iou)
    return Detections(boxes[kept], scores[kept], classes[kept], None)


def _reduce_tensors(
    predictions: Array, grid: Array, min_score: float, nms_iou: float, stream: Stream | None
) -> Reduced:
    from engines.codecs.device_candidates import best, suppressed, take

    by_class = predictions[..., 5:].max(dim=2)
    scores, cells = best(predictions[..., 4].float() * by_class.values.float(), min_score)  # (B, M)
    boxes = _boxes(take(predictions[..., :4], cells).float(), grid[cells])
    return suppressed(boxes, scores, by_class.indices.gather(1, cells), nms_iou, stream)


def _boxes(raw: Array, grid: Array) -> Array:
    """(…, 4) x0 y0 x1 y1 of raw values (…, 4), by their cells' corners and strides (…, 3)."""
    xp, strides = namespace(raw), grid[..., 2:]
    centres = (raw[..., :2] + grid[..., :2]) * strides
    halves = xp.exp(raw[..., 2:]) * strides / 2
    return xp.concatenate([centres - halves, centres + halves], -1)


@functools.cache
def _grid(size: tuple[int, int], strides: tuple[int, ...]) -> np.ndarray:
    """(cells, 3) float32: corner x, y in cells, and stride, grid by grid, each row by row."""
    grids = []
    for stride in strides:
        x, y = np.meshgrid(np.arange(size[0] // stride), np.arange(size[1] // stride))
        grids.append(np.stack([x, y, np.full_like(x, stride)], axis=-1).reshape(-1, 3))
    return np.concatenate(grids).astype(np.float32)


@functools.cache
def _grid_on(device: Any, size: tuple[int, int], strides: tuple[int, ...]) -> Array:
    return constant(_grid(size, strides), device)
