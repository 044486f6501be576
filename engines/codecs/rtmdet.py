"""Read RTMDet's output: boxes and labels, before suppression (our own exports) or after it (MMDeploy's).

Lyu et al., "RTMDet: An Empirical Study of Designing Real-Time Object Detectors" (arXiv:2212.07784).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from engines.codecs.base import DetectionRequest, DetectorCodec, ExpectedOutput, ModelSizes
from engines.codecs.detections import Detections, Reduced, pack
from engines.device.arrays import Array, Outputs, is_tensor, single
from engines.images.boxes import nms


class RtmdetCodec(DetectorCodec):
    """Decoded boxes with scores, and labels."""

    kind: Literal["rtmdet"]

    # Those of MMDetection's rtmdet_l_8xb32-300e_coco.py. MMDeploy's graphs have already suppressed at 0.6.
    default_min_score: ClassVar[float] = 0.3
    default_nms_iou: ClassVar[float] = 0.65

    def expected_outputs(self, model: ModelSizes) -> dict[str, ExpectedOutput]:
        """The number of rows varies from graph to graph."""
        return {
            "boxes": ExpectedOutput((-1, -1, 5), "boxes with scores"),
            "labels": ExpectedOutput((-1, -1), "labels"),
        }

    def reduce(self, outputs: Outputs, request: DetectionRequest) -> Reduced:
        """See `DetectorCodec.reduce`.

        Args:
            outputs: `boxes` (B, n, 5) x0 y0 x1 y1 score in px, and `labels` (B, n). Our own graphs give one
                row a cell. MMDeploy's have suppressed already, and pad a batch with rows of score 0.
            request: as for every detector.
        """
        rows, labels = single(outputs["boxes"]), outputs["labels"]
        if is_tensor(rows):
            return _reduce_tensors(rows, labels, request)
        images = zip(rows, labels, strict=True)
        return pack([_decode_image(*image, request) for image in images])


def _decode_image(rows: np.ndarray, labels: np.ndarray, request: DetectionRequest) -> Detections:
    good = (rows[:, 4] >= request.min_score) & (rows[:, 4] > 0)
    boxes, scores = rows[good, :4], rows[good, 4]
    classes = labels[good].astype(np.int64)
    kept = nms(boxes, scores, classes, request.nms_iou)
    return Detections(boxes[kept], scores[kept], classes[kept])


def _reduce_tensors(rows: Array, labels: Array, request: DetectionRequest) -> Reduced:
    from engines.codecs.device_candidates import best, suppressed, take

    scores, found = best(rows[..., 4], request.min_score)
    boxes, classes = take(rows[..., :4], found), labels.gather(1, found).long()
    return suppressed(boxes, scores, classes, request)
