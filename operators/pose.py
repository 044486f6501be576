"""Estimate the keypoints of every instance; all crops of a batch share one engine run."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from engines.codecs.base import TopDownCodec
from engines.estimators.blazepose import BlazePoseEstimator
from engines.estimators.topdown import TopDown
from engines.loading.load import load_engine
from operators.estimation.blazepose_tracking import BlazePoseTracking
from operators.estimation.model_options import Device, RunsOn, Threads, contract_for, count_halved, model_for
from operators.estimation.top_down_poses import TopDownPoses
from pipeline.errors import OptionError
from pipeline.operator import Operator, Ports, RunInfo
from pipeline.packet import Packet

Model = Annotated[str, Field(description="a pose model: a name in configs/models, or the path of an .onnx")]
MaxInstances = Annotated[
    int | None, Field(ge=1, description="per frame: followed tracks, then the best scores")
]
Presence = Annotated[float | None, Field(ge=0, le=1, description="BlazePose only; default: the model's own")]
FlipTest = Annotated[bool, Field(description="average with the outputs of mirrored crops; top-down only")]


class Pose(Operator):
    """Run a pose model on every instance.

    needs     image      uint8   (H, W, 3) RGB
              boxes      float32 (N, 4)  x0, y0, x1, y1 in px of the frame
              scores     float32 (N,)    only with `max_instances`
    provides  keypoints        float32 (N, K, 2)  px of the frame, also outside it; NaN where none was found
              keypoint_scores  float32 (N, K)     as the model gives them, not clipped

    Top-down models (SimCC, heatmap) look into this frame's boxes, detected or predicted; rows keep their
    order. A score is the height of the model's peak: near 1 where the model is sure, sometimes above 1, and
    not a probability. `track` is not needed before it; frames without instances pass unchanged.

    BlazePose looks into the region that a track's last pose gives (see
    `operators.estimation.blazepose_tracking`):

    needs     scores     float32 (N,)
              track_ids  int64   (N,)    no id twice in a frame
              rois       float32 (N, 5)  optional: the regions of new tracks; else squares around their boxes
              detected   bool    (N,)    optional: False where the box is a prediction
    provides  keypoint_scores  float32 (N, K)     0..1
              keypoints_3d     float32 (N, K, 3)  m around the hip centre
              boxes            the boxes around the keypoints
              rois             the regions that the model looked at
    """

    needs = ("image", "boxes")
    provides = ("keypoints", "keypoint_scores")
    per_stream = True  # BlazePose follows tracks; top-down models need no order (see `ports`)
    batch_max = 4

    def __init__(
        self,
        model: Model,
        max_instances: MaxInstances = None,
        min_presence: Presence = None,
        flip_test: FlipTest = False,
        backend: RunsOn = "auto",
        threads: Threads = None,
        device: Device = None,
    ):
        self.model, self.backend, self.threads, self.device = model, backend, threads, device
        self.max_instances, self.min_presence, self.flip_test = max_instances, min_presence, flip_test

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """The model decides which fields are needed, and whether there are keypoints in metres.

        Raises:
            OptionError: the model is unknown, or does not estimate poses, or does not have such an option.
        """
        contract = contract_for("pose", options["model"])
        needs, provides = {*cls.needs}, {*cls.provides}
        top_down = isinstance(contract.codec, TopDownCodec)
        if top_down:
            if options.get("min_presence") is not None:
                raise OptionError(
                    "min_presence", f"{contract.name} does not give presence; remove the option"
                )
            if options.get("max_instances"):
                needs |= {"scores"}
        else:
            if options.get("flip_test"):
                raise OptionError("flip_test", f"{contract.name} has no flip test; remove the option")
            needs |= {"scores", "track_ids"}
            provides |= {"rois", "keypoints_3d"} if contract.keypoints_3d else {"rois"}
        return Ports(frozenset(needs), frozenset(provides), per_stream=not top_down)

    def open(self, run: RunInfo) -> None:
        """Load the model."""
        contract, path = model_for("pose", self.model)
        threads = self.threads or run.cores
        engine = load_engine(contract, threads=threads, path=path, backend=self.backend, device=self.device)
        self.poses: TopDownPoses | BlazePoseTracking
        if isinstance(contract.codec, TopDownCodec):
            estimator = TopDown(contract, engine, flip_test=self.flip_test)
            self.poses = TopDownPoses(estimator, self.max_instances)
        else:
            self.poses = BlazePoseTracking(
                BlazePoseEstimator(contract, engine), self.max_instances, self.min_presence, self.count
            )

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Find the poses of a batch."""
        results = self.poses.process(packets)
        count_halved(self, self.poses.estimator.halved)
        return results

    def reset(self, stream: str) -> None:
        """Forget the stream's tracks."""
        self.poses.reset(stream)

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """No packet is held back, so there is none to return."""
        self.reset(stream)
        return ()

    def close(self) -> None:
        """Free the model's memory."""
        if poses := self.__dict__.pop("poses", None):
            poses.close()
