"""Read the output of ultralytics' detectors (YOLOv8, YOLO11 and their kin), exported without suppression.

A prediction for each cell of all grids; boxes are decoded in the graph, so the strides do not matter here.
https://docs.ultralytics.com/reference/nn/modules/head
"""

from __future__ import annotations

import numpy as np

from engines.boxes import nms
from engines.contract import Contract
from engines.detections import Detections

BOX = 4  # values in front of the class scores


def decode(
    outputs: dict[str, np.ndarray], contract: Contract, min_score: float, nms_iou: float
) -> list[Detections]:
    """Detections of each image in px of the model's input, best first.

    Args:
        outputs: `predictions` (B, 4 + C, cells): centre x, y, width, height in px, and C class scores 0..1.
        contract: not needed; all codecs are called alike.
        min_score: of the best class.
        nms_iou: of two boxes of a class that overlap more, the better one stays.
    """
    return [
        detections_of(predictions, len(predictions) - BOX, min_score, nms_iou)[0]
        for predictions in outputs["predictions"]
    ]


def detections_of(
    predictions: np.ndarray, classes: int, min_score: float, nms_iou: float
) -> tuple[Detections, np.ndarray]:
    """The detections in predictions (4 + C + …, cells), and the cells (N,) that they are from."""
    best = predictions[BOX : BOX + classes].max(axis=0)  # (cells,)
    cells = np.flatnonzero(best >= min_score)
    found, scores = predictions[:, cells], best[cells]
    labels = found[BOX : BOX + classes].argmax(axis=0)
    centres, halves = found[:2].T, found[2:BOX].T / 2  # (n, 2)
    boxes = np.concatenate([centres - halves, centres + halves], axis=1)
    kept = nms(boxes, scores, labels, nms_iou)
    return Detections(boxes[kept], scores[kept], labels[kept]), cells[kept]
