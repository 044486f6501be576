"""Read YOLOX's output: a prediction for each cell of three grids, decoded and suppressed here.

Ge et al., "YOLOX: Exceeding YOLO Series in 2021" (arXiv:2107.08430).
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar, Literal

import numpy as np

from engines.codecs.base import DetectionRequest, DetectorCodec, ExpectedOutput, ModelSizes
from engines.codecs.detections import Detections, Reduced, pack
from engines.device.arrays import Array, Outputs, constant, is_tensor, namespace, single
from engines.images.boxes import nms


class YoloxCodec(DetectorCodec):
    """Anchor-free grids: xy + cell, exp(wh), objectness times class score; no NMS in the graph."""

    kind: Literal["yolox"]
    strides: list[int]

    # Those of the YOLOX demo. Boxes as weak as 0.3 help a tracker to keep its tracks going.
    default_min_score: ClassVar[float] = 0.3
    default_nms_iou: ClassVar[float] = 0.45

    def expected_outputs(self, model: ModelSizes) -> dict[str, ExpectedOutput]:
        """One row for each cell of all grids."""
        width, height = model.input_size
        cells = sum((width // stride) * (height // stride) for stride in self.strides)
        reason = f"{width}x{height} px in strides of {self.strides} and {model.labels} labels"
        return {"predictions": ExpectedOutput((-1, cells, 5 + model.labels), reason)}

    def reduce(self, outputs: Outputs, request: DetectionRequest) -> Reduced:
        """See `DetectorCodec.reduce`. The score is objectness times the best class score.

        Args:
            outputs: `predictions` (B, cells, 5 + C): x, y from the cell's corner in cells, log width and log
                height in cells, objectness 0..1, and C class scores 0..1.
            request: as for every detector.
        """
        predictions, size, strides = outputs["predictions"], request.model.input_size, tuple(self.strides)
        if is_tensor(predictions):
            return _reduce_tensors(predictions, _grid_on(predictions.device, size, strides), request)
        grid = _grid(size, strides)
        return pack([_decode_image(single(image), grid, request) for image in predictions])


def _decode_image(predictions: np.ndarray, grid: np.ndarray, request: DetectionRequest) -> Detections:
    rows = np.flatnonzero(predictions[:, 4] >= request.min_score)  # no score exceeds its objectness
    found = predictions[rows]  # (n, 5 + C)
    classes = found[:, 5:].argmax(axis=1)
    scores = found[:, 4] * found[:, 5:].max(axis=1)
    good = scores >= request.min_score
    rows, found, classes, scores = rows[good], found[good], classes[good], scores[good]
    boxes = _boxes(found[:, :4], grid[rows])
    kept = nms(boxes, scores, classes, request.nms_iou)
    return Detections(boxes[kept], scores[kept], classes[kept])


def _reduce_tensors(predictions: Array, grid: Array, request: DetectionRequest) -> Reduced:
    from engines.codecs.device_candidates import best, suppressed, take

    by_class = predictions[..., 5:].max(dim=2)
    scores, cells = best(predictions[..., 4].float() * by_class.values.float(), request.min_score)  # (B, M)
    boxes = _boxes(take(predictions[..., :4], cells).float(), grid[cells])
    return suppressed(boxes, scores, by_class.indices.gather(1, cells), request)


def _boxes(raw: Array, grid: Array) -> Array:
    """(…, 4) x0 y0 x1 y1 from raw values (…, 4) and their cells' corners and strides (…, 3)."""
    xp, strides = namespace(raw), grid[..., 2:]
    centres = (raw[..., :2] + grid[..., :2]) * strides
    halves = xp.exp(raw[..., 2:]) * strides / 2
    return xp.concatenate([centres - halves, centres + halves], -1)


@functools.cache
def _grid(size: tuple[int, int], strides: tuple[int, ...]) -> np.ndarray:
    """(cells, 3) float32: corner x, y in cells, and stride; grid by grid, each row by row."""
    grids = []
    for stride in strides:
        x, y = np.meshgrid(np.arange(size[0] // stride), np.arange(size[1] // stride))
        grids.append(np.stack([x, y, np.full_like(x, stride)], axis=-1).reshape(-1, 3))
    return np.concatenate(grids).astype(np.float32)


@functools.cache
def _grid_on(device: Any, size: tuple[int, int], strides: tuple[int, ...]) -> Array:
    """The same on a torch device, copied there once."""
    return constant(_grid(size, strides), device)
