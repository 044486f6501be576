"""Read the output of ultralytics' detectors (YOLOv8, YOLO11 and relatives), exported without suppression.

There is a prediction for each cell of all grids. The graph decodes boxes, so the codec needs no strides.
https://docs.ultralytics.com/reference/nn/modules/head
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from engines.codecs.base import DetectionRequest, DetectorCodec, ExpectedOutput, ModelSizes
from engines.codecs.detections import Detections, Reduced, pack
from engines.device.arrays import Array, Outputs, is_tensor, namespace, single
from engines.images.boxes import nms

BOX = 4  # values in front of the class scores
# Those of ultralytics' predict (cfg/default.yaml).
MIN_SCORE, NMS_IOU = 0.25, 0.7


class YoloCodec(DetectorCodec):
    """Boxes decoded in the graph, without NMS: 4 box values, then one score a class."""

    kind: Literal["yolo"]

    default_min_score: ClassVar[float] = MIN_SCORE
    default_nms_iou: ClassVar[float] = NMS_IOU

    def expected_outputs(self, model: ModelSizes) -> dict[str, ExpectedOutput]:
        """One column for each cell."""
        return {"predictions": ExpectedOutput((-1, BOX + model.labels, -1), f"{model.labels} labels")}

    def reduce(self, outputs: Outputs, request: DetectionRequest) -> Reduced:
        """See `DetectorCodec.reduce`. The score is that of the best class.

        Args:
            outputs: `predictions` (B, 4 + C, cells): centre x, y, width, height in px, and C class scores
                0..1.
            request: as for every detector.
        """
        predictions = outputs["predictions"]
        classes = predictions.shape[1] - BOX
        if is_tensor(predictions):
            return reduce_tensors(predictions, classes, request)[0]
        return pack([decode_image(single(image), classes, request)[0] for image in predictions])


def decode_image(
    predictions: np.ndarray, classes: int, request: DetectionRequest
) -> tuple[Detections, np.ndarray]:
    """The detections in predictions (4 + C + …, cells) float32, and the cell of each (N,)."""
    best = predictions[BOX : BOX + classes].max(axis=0)  # (cells,)
    cells = np.flatnonzero(best >= request.min_score)
    found, scores = predictions[:, cells], best[cells]
    labels = found[BOX : BOX + classes].argmax(axis=0)
    boxes = _boxes(found[:BOX].T)
    kept = nms(boxes, scores, labels, request.nms_iou)
    return Detections(boxes[kept], scores[kept], labels[kept]), cells[kept]


def reduce_tensors(predictions: Array, classes: int, request: DetectionRequest) -> tuple[Reduced, Array]:
    """The candidates in predictions (B, 4 + C + …, cells), and the cell of each (B, M)."""
    from engines.codecs.device_candidates import best, suppressed, take

    by_class = predictions[:, BOX : BOX + classes].max(dim=1)
    scores, cells = best(by_class.values, request.min_score)  # (B, M)
    boxes = _boxes(take(predictions[:, :BOX].transpose(1, 2), cells).float())
    return suppressed(boxes, scores, by_class.indices.gather(1, cells), request), cells


def _boxes(raw: Array) -> Array:
    """(…, 4) x0 y0 x1 y1 from centres and sizes (…, 4)."""
    centres, halves = raw[..., :2], raw[..., 2:] / 2
    return namespace(raw).concatenate([centres - halves, centres + halves], -1)
