"""Find persons or animals with their keypoints in one step; frames of all cameras share one engine run."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from engines.codecs.base import DetectorCodec
from engines.codecs.detections import Detections
from engines.contracts.contract import Contract
from engines.estimators.detector import Detector
from engines.loading.load import load_engine
from operators.estimation.frame_detection import Every, FrameDetection, MaxDetections, Threshold
from operators.estimation.model_options import Device, RunsOn, Threads, contract_for, model_for
from pipeline.operator import Ports, RunInfo
from pipeline.packet import Instances

Model = Annotated[
    str, Field(description="a one-stage pose model: a name in configs/models, or the path of an .onnx")
]


class PoseOnestage(FrameDetection):
    """Run a one-stage pose model (YOLO-pose) on whole frames; no boxes are needed before it.

    needs     image            uint8   (H, W, 3) RGB
    provides  boxes            float32 (N, 4)     x0, y0, x1, y1 in px of the frame
              scores           float32 (N,)       0..1, of the instance
              labels           str     (N,)       class names
              keypoints        float32 (N, K, 2)  px of the frame, those outside of it included
              keypoint_scores  float32 (N, K)     0..1; absent for models trained without visibility
    Rows go from the best score down; N may be 0. Frames that `every` skips pass with `instances` None. The
    defaults of `min_score` and `nms_iou` are those of the model's family, in its file in `engines/codecs`.
    """

    provides = ("boxes", "scores", "labels", "keypoints", "keypoint_scores")

    def __init__(
        self,
        model: Model,
        min_score: Threshold = None,
        nms_iou: Threshold = None,
        every: Every = 1,
        max_detections: MaxDetections = 100,
        backend: RunsOn = "auto",
        threads: Threads = None,
        device: Device = None,
    ):
        self.model, self.backend, self.threads, self.device = model, backend, threads, device
        super().__init__(min_score, nms_iou, every)
        self.max_detections = max_detections

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """The model decides whether keypoints have scores.

        Raises:
            OptionError: the model is unknown, or is no one-stage pose model.
        """
        contract = contract_for("pose_onestage", options["model"])
        return Ports(frozenset(cls.needs), frozenset(_fields(contract)))

    def open(self, run: RunInfo) -> None:
        """Load the model."""
        super().open(run)
        contract, path = model_for("pose_onestage", self.model)
        threads = self.threads or run.cores
        engine = load_engine(contract, threads=threads, path=path, backend=self.backend, device=self.device)
        self.detector = Detector(contract, engine)
        self.names = np.array(contract.labels, np.object_)

    def _instances(self, found: Detections) -> Instances:
        best = slice(self.max_detections)
        values = {
            "boxes": found.boxes,
            "scores": found.scores,
            "labels": self.names[found.classes],
            "keypoints": found.keypoints,
            "keypoint_scores": found.keypoint_scores,
        }
        kept = {name: array[best] for name, array in values.items() if array is not None}
        return Instances(skeleton=self.detector.contract.skeleton, **kept)


def _fields(contract: Contract) -> tuple[str, ...]:
    """The fields that a model provides."""
    scored = isinstance(contract.codec, DetectorCodec) and contract.codec.scores_keypoints
    return PoseOnestage.provides if scored else PoseOnestage.provides[:-1]
