"""Find persons and animals in whole frames; the frames of all cameras share one engine run."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from engines.configs import nearest
from engines.detections import Detections
from engines.detector import KINDS, Detector
from engines.load import load_engine
from operators.models import RunsOn, as_image, contract_for, model_for
from pipeline.errors import OptionError
from pipeline.operator import Operator, Ports, RunInfo
from pipeline.packet import Instances, Packet

FIELDS = ("boxes", "scores", "labels")

Model = Annotated[str, Field(description="a detector: its name in configs/models, or an exported .onnx")]
Classes = Annotated[list[str] | None, Field(min_length=1, description="keep only these; all unless told")]
Fraction = Annotated[float | None, Field(gt=0, le=1, description="that of the model's family unless told")]
Every = Annotated[int, Field(ge=1, description="detect on frames 0, n, 2n … of a stream, skip the others")]
Count = Annotated[int, Field(ge=1)]


class Detect(Operator):
    """Run a detection model on whole frames.

    needs     image   uint8   (H, W, 3) RGB
    provides  boxes   float32 (N, 4)  x0, y0, x1, y1 in px of the frame
              scores  float32 (N,)    0..1
              labels  str     (N,)    class names
              rois    float32 (N, 5)  BlazePose only: centre x, y, width, height in px, angle in rad
    Rows go from the best score down; N may be 0. Frames that `every` skips pass with `instances` None. Where
    `min_score` and `nms_iou` are not given, those of the model's family hold (`engines.detector.KINDS`).
    """

    needs = ("image",)
    provides = FIELDS
    batch_max = 4

    def __init__(
        self,
        model: Model,
        classes: Classes = None,
        min_score: Fraction = None,
        nms_iou: Fraction = None,
        every: Every = 1,
        max_detections: Annotated[Count, Field(description="a frame; the best ones stay")] = 100,
        backend: RunsOn = "auto",
        threads: Annotated[Count, Field(description="of the processor, for one engine")] = 1,
    ):
        self.model, self.classes = model, classes
        self.backend, self.threads = backend, threads
        self.min_score, self.nms_iou = min_score, nms_iou
        self.every, self.max_detections = every, max_detections

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """BlazePose's detector also gives `rois`.

        Raises:
            OptionError: the model is unknown or does not detect, or has no such class.
        """
        contract = contract_for("detect", options["model"])
        for name in options.get("classes") or ():
            if name not in (contract.labels or []):
                hint = nearest(name, contract.labels or [])
                raise OptionError("classes", f"{contract.name} has no class {name!r}; {hint}")
        rois = {"rois"} if KINDS[contract.codec.kind].rois else set()
        return Ports(frozenset(cls.needs), frozenset(FIELDS) | rois)

    def open(self, run: RunInfo) -> None:
        """Load the model."""
        contract, path = model_for("detect", self.model)
        engine = load_engine(contract, threads=self.threads, path=path, backend=self.backend)
        self.detector = Detector(contract, engine)
        self.names = np.array(contract.labels, np.object_)
        self.wanted = np.isin(self.names, self.classes or self.names)  # (classes of the model,)
        self.fields = FIELDS + (("rois",) if self.detector.kind.rois else ())

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Detect on all packets of the batch whose turn it is, in one engine run."""
        due = [packet for packet in packets if packet.seq % self.every == 0]
        images = [as_image(packet) for packet in due]
        found = self.detector(images, self.min_score, self.nms_iou)
        results = {id(packet): self._instances(one) for packet, one in zip(due, found, strict=True)}
        return [packet.replace(instances=results.get(id(packet))) for packet in packets]

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

    def close(self) -> None:
        """Free the model's memory."""
        if detector := self.__dict__.pop("detector", None):
            detector.close()
