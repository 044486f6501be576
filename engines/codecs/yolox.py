"""Read YOLOX's output: a prediction for each cell of three grids, decoded and suppressed here.

Ge et al., "YOLOX: Exceeding YOLO Series in 2021" (arXiv:2107.08430).
"""

from __future__ import annotations

import functools

import numpy as np

from engines.boxes import nms
from engines.contract import Contract, YoloxCodec
from engines.detections import Detections


def decode(
    outputs: dict[str, np.ndarray], contract: Contract, min_score: float, nms_iou: float
) -> list[Detections]:
    """Detections of each image in px of the model's input, best first.

    Args:
        outputs: `predictions` (B, cells, 5 + C): x, y from the cell's corner in cells, log width and log
            height in cells, objectness, and C class scores, both between 0 and 1.
        contract: gives input size and strides.
        min_score: of objectness times the best class score.
        nms_iou: of two boxes of a class that overlap more, the better one stays.
    """
    assert isinstance(contract.codec, YoloxCodec)
    cells, strides = _grid(contract.input.size, tuple(contract.codec.strides))
    return [
        _decode_image(predictions, cells, strides, min_score, nms_iou)
        for predictions in outputs["predictions"]
    ]


def _decode_image(
    predictions: np.ndarray, cells: np.ndarray, strides: np.ndarray, min_score: float, nms_iou: float
) -> Detections:
    rows = np.flatnonzero(predictions[:, 4] >= min_score)  # no score exceeds its objectness
    found = predictions[rows]  # (n, 5 + C)
    classes = found[:, 5:].argmax(axis=1)
    scores = found[:, 4] * found[:, 5:].max(axis=1)
    good = scores >= min_score
    rows, found, classes, scores = rows[good], found[good], classes[good], scores[good]

    centres = (found[:, :2] + cells[rows]) * strides[rows]
    halves = np.exp(found[:, 2:4]) * strides[rows] / 2
    boxes = np.concatenate([centres - halves, centres + halves], axis=1).astype(np.float32)
    kept = nms(boxes, scores, classes, nms_iou)
    return Detections(boxes[kept], scores[kept], classes[kept], None)


@functools.cache
def _grid(size: tuple[int, int], strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Corners (cells, 2) and strides (cells, 1), grid by grid, each row by row."""
    grids = []
    for stride in strides:
        x, y = np.meshgrid(np.arange(size[0] // stride), np.arange(size[1] // stride))
        grids.append(np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32))
    sizes = np.repeat(np.array(strides, np.float32), [len(grid) for grid in grids])
    return np.concatenate(grids), sizes[:, None]
