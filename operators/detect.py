"""Find persons and animals in whole frames; the frames of all cameras share one engine run."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from engines.codecs.base import DetectorCodec
from engines.codecs.detections import Detections
from engines.errors import nearest
from engines.estimators.detector import Detector
from engines.loading.load import load_engine
from operators.estimation.frame_detection import Count, Every, FrameDetection, MaxDetections, Threshold
from operators.estimation.model_options import Device, RunsOn, contract_for, model_for
from pipeline.errors import OptionError
from pipeline.operator import Ports, RunInfo
from pipeline.packet import Instances

FIELDS = ("boxes", "scores", "labels")

Model = Annotated[str, Field(description="a detector: a name in configs/models, or the path of an .onnx")]
Classes = Annotated[list[str] | None, Field(min_length=1, description="keep only these; default: all")]


class Detect(FrameDetection):
    """Run a detection model on whole frames.

    needs     image   uint8   (H, W, 3) RGB
    provides  boxes   float32 (N, 4)  x0, y0, x1, y1 in px of the frame
              scores  float32 (N,)    0..1
              labels  str     (N,)    class names
              rois    float32 (N, 5)  BlazePose only: centre x, y, width, height in px, angle in rad
    Rows go from the best score down; N may be 0. Frames that `every` skips pass with `instances` None. The
    defaults of `min_score` and `nms_iou` are those of the model's family, in its file in `engines/codecs`.
    """

    provides = FIELDS

    def __init__(
        self,
        model: Model,
        classes: Classes = None,
        min_score: Threshold = None,
        nms_iou: Threshold = None,
        every: Every = 1,
        max_detections: MaxDetections = 100,
        backend: RunsOn = "auto",
        threads: Annotated[Count, Field(description="processor threads for one engine")] = 1,
        device: Device = None,
    ):
        self.model, self.classes = model, classes
        self.backend, self.threads, self.device = backend, threads, device
        super().__init__(min_score, nms_iou, every)
        self.max_detections = max_detections

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """BlazePose's detector also provides `rois`.

        Raises:
            OptionError: the model is unknown or is no detector, or has no such class.
        """
        contract = contract_for("detect", options["model"])
        for name in options.get("classes") or ():
            if name not in (contract.labels or []):
                hint = nearest(name, contract.labels or [])
                raise OptionError("classes", f"{contract.name} has no class {name!r}; {hint}")
        rois = {"rois"} if isinstance(contract.codec, DetectorCodec) and contract.codec.gives_rois else set()
        return Ports(frozenset(cls.needs), frozenset(FIELDS) | rois)

    def open(self, run: RunInfo) -> None:
        """Load the model."""
        super().open(run)
        contract, path = model_for("detect", self.model)
        engine = load_engine(
            contract, threads=self.threads, path=path, backend=self.backend, device=self.device
        )
        self.detector = Detector(contract, engine)
        self.names = np.array(contract.labels, np.object_)
        self.wanted = np.isin(self.names, self.classes or self.names)  # (classes of the model,)
        self.fields = FIELDS + (("rois",) if self.detector.codec.gives_rois else ())

    def _instances(self, found: Detections) -> Instances:
        rows = np.flatnonzero(self.wanted[found.classes])[: self.max_detections]
        if not len(rows):
            return Instances.empty(*self.fields)
        rois: dict[str, Any] = {} if found.rois is None else {"rois": found.rois[rows]}
        return Instances(
            boxes=found.boxes[rows],
            scores=found.scores[rows],
            labels=self.names[found.classes[rows]],
            **rois,
        )
