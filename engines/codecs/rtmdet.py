"""Read RTMDet's output: boxes and labels, before suppression (our own exports) or after it (MMDeploy's).

Lyu et al., "RTMDet: An Empirical Study of Designing Real-Time Object Detectors" (arXiv:2212.07784).
"""

from __future__ import annotations

import numpy as np

from engines.boxes import nms
from engines.contract import Contract
from engines.detections import Detections


def decode(
    outputs: dict[str, np.ndarray], contract: Contract, min_score: float, nms_iou: float
) -> list[Detections]:
    """Detections of each image in px of the model's input, best first.

    Args:
        outputs: `boxes` (B, n, 5) x0 y0 x1 y1 score and `labels` (B, n). From our own graphs n is the number
            of cells; MMDeploy's have suppressed at 0.6 already, and rows that fill up a batch score 0.
        contract: not needed; all codecs are called alike.
        min_score: of the detection.
        nms_iou: of two boxes of a class that overlap more, the better one stays.
    """
    found = []
    for rows, labels in zip(outputs["boxes"], outputs["labels"], strict=True):
        good = (rows[:, 4] >= min_score) & (rows[:, 4] > 0)
        boxes, scores = rows[good, :4].astype(np.float32), rows[good, 4]
        classes = labels[good].astype(np.int64)
        kept = nms(boxes, scores, classes, nms_iou)
        found.append(Detections(boxes[kept], scores[kept], classes[kept], None))
    return found
