"""Read the output of ultralytics' detectors (YOLOv8, YOLO11 and their kin), exported without suppression.

A prediction for each cell of all grids; boxes are decoded in the graph, so the strides do not matter here.
https://docs.ultralytics.com/reference/nn/modules/head
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engines.codecs.detections import Detections, Reduced, pack
from engines.contracts.contract import Contract
from engines.device.arrays import Array, Outputs, is_tensor, namespace, single
from engines.images.boxes import nms

if TYPE_CHECKING:
    from engines.device.streams import Stream

BOX = 4  # values in front of the class scores


def reduce(
    outputs: Outputs, contract: Contract, min_score: float, nms_iou: float, stream: Stream | None = None
) -> Reduced:
    """The detections of each image as `engines.codecs.detections.finish` wants them.

    Args:
        outputs: `predictions` (B, 4 + C, cells): centre x, y, width, height in px, and C class scores 0..1;
            arrays or tensors.
        contract: not needed; all codecs are called alike.
        min_score: of the best class.
        nms_iou: of two boxes of a class that overlap more, the better one stays.
        stream: the current one, if the outputs are tensors.
    """
    predictions = outputs["predictions"]
    classes = predictions.shape[1] - BOX
    if is_tensor(predictions):
        return reduce_tensors(predictions, classes, min_score, nms_iou, stream)[0]
    return pack([detections_of(single(one), classes, min_score, nms_iou)[0] for one in predictions])


def detections_of(
    predictions: np.ndarray, classes: int, min_score: float, nms_iou: float
) -> tuple[Detections, np.ndarray]:
    """The detections in predictions (4 + C + …, cells) float32, and the cells (N,) that they are from."""
    best = predictions[BOX : BOX + classes].max(axis=0)  # (cells,)
    cells = np.flatnonzero(best >= min_score)
    found, scores = predictions[:, cells], best[cells]
    labels = found[BOX : BOX + classes].argmax(axis=0)
    boxes = _boxes(found[:BOX].T)
    kept = nms(boxes, scores, labels, nms_iou)
    return Detections(boxes[kept], scores[kept], labels[kept]), cells[kept]


def reduce_tensors(
    predictions: Array, classes: int, min_score: float, nms_iou: float, stream: Stream | None
) -> tuple[Reduced, Array]:
    """The candidates in predictions (B, 4 + C + …, cells), and the cells (B, M) that they are from."""
    from engines.codecs.device_candidates import best, suppressed, take

    by_class = predictions[:, BOX : BOX + classes].max(dim=1)
    scores, cells = best(by_class.values, min_score)  # (B, M)
    boxes = _boxes(take(predictions[:, :BOX].transpose(1, 2), cells).float())
    return suppressed(boxes, scores, by_class.indices.gather(1, cells), nms_iou, stream), cells


def _boxes(raw: Array) -> Array:
    """(…, 4) x0 y0 x1 y1 of centres and sizes (…, 4)."""
    centres, halves = raw[..., :2], raw[..., 2:] / 2
    return namespace(raw).concatenate([centres - halves, centres + halves], -1)
