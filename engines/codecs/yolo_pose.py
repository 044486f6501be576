"""Read the output of ultralytics' pose models: what its detectors give, with keypoints behind the scores.

Maji et al., "YOLO-Pose: Enhancing YOLO for Multi Person Pose Estimation" (arXiv:2204.06806).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engines.codecs.detections import Detections, Reduced, pack
from engines.codecs.yolo import BOX, detections_of, reduce_tensors
from engines.contracts.contract import Contract, YoloPoseCodec
from engines.device.arrays import Array, Outputs, is_tensor, single

if TYPE_CHECKING:
    from engines.device.streams import Stream


def reduce(
    outputs: Outputs, contract: Contract, min_score: float, nms_iou: float, stream: Stream | None = None
) -> Reduced:
    """The detections with keypoints of each image as `engines.codecs.detections.finish` wants them.

    Args:
        outputs: `predictions` (B, 4 + C + K V, cells): box and class scores as of a detector, then x, y in px
            of each keypoint, and its visibility 0..1 where V is 3; an array or a tensor.
        contract: gives the number of classes, and V.
        min_score: of the best class.
        nms_iou: of two boxes of a class that overlap more, the better one stays.
        stream: the current one, if the outputs are tensors.
    """
    assert isinstance(contract.codec, YoloPoseCodec)
    predictions = outputs["predictions"]
    classes, values = len(contract.labels or ()), contract.codec.values_per_keypoint
    if is_tensor(predictions):
        return _reduce_tensors(predictions, classes, values, min_score, nms_iou, stream)
    return pack([_decode_image(single(one), classes, values, min_score, nms_iou) for one in predictions])


def _decode_image(
    predictions: np.ndarray, classes: int, values: int, min_score: float, nms_iou: float
) -> Detections:
    found, cells = detections_of(predictions, classes, min_score, nms_iou)
    # The rows are told, not left to reshape: there may be no cells.
    keypoints = (len(predictions) - BOX - classes) // values
    rows = predictions[BOX + classes :, cells].T.reshape(len(cells), keypoints, values)  # (N, K, V)
    return found._replace(
        keypoints=rows[..., :2],
        keypoint_scores=rows[..., 2] if values == 3 else None,
    )


def _reduce_tensors(
    predictions: Array, classes: int, values: int, min_score: float, nms_iou: float, stream: Stream | None
) -> Reduced:
    from engines.codecs.device_candidates import take

    reduced, cells = reduce_tensors(predictions, classes, min_score, nms_iou, stream)
    rows = take(predictions[:, BOX + classes :].transpose(1, 2), cells).float()  # (B, M, K V)
    rows = rows.unflatten(2, (-1, values))  # (B, M, K, V)
    reduced["keypoints"] = rows[..., :2].contiguous()
    if values == 3:
        reduced["keypoint_scores"] = rows[..., 2].contiguous()
    return reduced
