"""Read the output of ultralytics' pose models: what its detectors give, with keypoints behind the scores.

Maji et al., "YOLO-Pose: Enhancing YOLO for Multi Person Pose Estimation" (arXiv:2204.06806).
"""

from __future__ import annotations

import numpy as np

from engines.codecs.yolo import BOX, detections_of
from engines.contract import Contract, YoloPoseCodec
from engines.detections import Detections


def decode(
    outputs: dict[str, np.ndarray], contract: Contract, min_score: float, nms_iou: float
) -> list[Detections]:
    """Detections with keypoints of each image in px of the model's input, best first.

    Args:
        outputs: `predictions` (B, 4 + C + K V, cells): box and class scores as of a detector, then x, y in px
            of each keypoint, and its visibility 0..1 where V is 3.
        contract: gives the number of classes, and V.
        min_score: of the best class.
        nms_iou: of two boxes of a class that overlap more, the better one stays.
    """
    assert isinstance(contract.codec, YoloPoseCodec)
    classes, values = len(contract.labels or ()), contract.codec.values_per_keypoint
    return [_decode_image(one, classes, values, min_score, nms_iou) for one in outputs["predictions"]]


def _decode_image(
    predictions: np.ndarray, classes: int, values: int, min_score: float, nms_iou: float
) -> Detections:
    found, cells = detections_of(predictions, classes, min_score, nms_iou)
    # The rows are told, not left to reshape: there may be no cells.
    keypoints = (len(predictions) - BOX - classes) // values
    rows = predictions[BOX + classes :, cells].T.reshape(len(cells), keypoints, values)  # (N, K, V)
    return found._replace(
        keypoints=np.ascontiguousarray(rows[..., :2]),
        keypoint_scores=np.ascontiguousarray(rows[..., 2]) if values == 3 else None,
    )
