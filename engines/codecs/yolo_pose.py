"""Read the output of ultralytics' pose models: that of its detectors, with keypoints behind the class scores.

Maji et al., "YOLO-Pose: Enhancing YOLO for Multi Person Pose Estimation" (arXiv:2204.06806).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from engines.codecs.base import DetectionRequest, DetectorCodec, ExpectedOutput, ModelSizes
from engines.codecs.detections import Detections, Reduced, pack
from engines.codecs.yolo import BOX, MIN_SCORE, NMS_IOU, decode_image, reduce_tensors
from engines.device.arrays import Array, Outputs, is_tensor, single

WITH_VISIBILITY = 3  # values a keypoint: x, y, visibility


class YoloPoseCodec(DetectorCodec):
    """A one-stage pose model, without NMS: box, class scores, then x, y (and visibility) a keypoint."""

    kind: Literal["yolo-pose"]
    values_per_keypoint: Literal[2, 3] = 3

    default_min_score: ClassVar[float] = MIN_SCORE
    default_nms_iou: ClassVar[float] = NMS_IOU

    @property
    def scores_keypoints(self) -> bool:
        """The visibility serves as score; not every model was trained with it."""
        return self.values_per_keypoint == WITH_VISIBILITY

    def expected_outputs(self, model: ModelSizes) -> dict[str, ExpectedOutput]:
        """One column for each cell."""
        values = self.values_per_keypoint
        rows = BOX + model.labels + model.keypoints * values
        points = f"{model.keypoints} keypoints of {model.skeleton}"
        reason = f"{model.labels} labels and {values} values for {points}"
        return {"predictions": ExpectedOutput((-1, rows, -1), reason)}

    def reduce(self, outputs: Outputs, request: DetectionRequest) -> Reduced:
        """See `DetectorCodec.reduce`. The score is that of the best class.

        Args:
            outputs: `predictions` (B, 4 + C + K V, cells): box and class scores as of a YOLO detector, then
                x, y in px of each keypoint, and its visibility 0..1 where V is 3.
            request: as for every detector.
        """
        predictions, classes = outputs["predictions"], request.model.labels
        if is_tensor(predictions):
            return self._reduce_tensors(predictions, classes, request)
        return pack([self._decode_image(single(image), classes, request) for image in predictions])

    def _decode_image(self, predictions: np.ndarray, classes: int, request: DetectionRequest) -> Detections:
        found, cells = decode_image(predictions, classes, request)
        values = self.values_per_keypoint
        # K is computed, not left to reshape as -1: that fails where there are no cells.
        keypoints = (len(predictions) - BOX - classes) // values
        rows = predictions[BOX + classes :, cells].T.reshape(len(cells), keypoints, values)  # (N, K, V)
        return found._replace(
            keypoints=rows[..., :2],
            keypoint_scores=rows[..., 2] if self.scores_keypoints else None,
        )

    def _reduce_tensors(self, predictions: Array, classes: int, request: DetectionRequest) -> Reduced:
        from engines.codecs.device_candidates import take

        reduced, cells = reduce_tensors(predictions, classes, request)
        rows = take(predictions[:, BOX + classes :].transpose(1, 2), cells).float()  # (B, M, K V)
        rows = rows.unflatten(2, (-1, self.values_per_keypoint))  # (B, M, K, V)
        reduced["keypoints"] = rows[..., :2].contiguous()
        if self.scores_keypoints:
            reduced["keypoint_scores"] = rows[..., 2].contiguous()
        return reduced
