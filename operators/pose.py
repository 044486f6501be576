"""Estimate 2D and 3D keypoints of every tracked instance; all crops of a batch in one engine run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from engines.contract import BlazePoseLandmarksCodec
from engines.load import load_engine
from engines.pose import PoseEstimator, Poses
from engines.regions import duplicates, enclosing_boxes
from operators.follow import Follower
from operators.models import as_image, contract_for
from pipeline.operator import Operator, Ports, RunInfo
from pipeline.packet import Instances, Packet

Model = Annotated[str, Field(description="a pose model in configs/models")]
MaxInstances = Annotated[int | None, Field(ge=1, description="a frame: those being tracked, then the best")]
Presence = Annotated[float | None, Field(ge=0, le=1, description="the model's own unless told")]
Threads = Annotated[int | None, Field(ge=1, description="for one engine; by the cores and workers")]


class Pose(Operator):
    """Run a pose model on every tracked instance.

    needs     image      uint8   (H, W, 3) RGB
              boxes      float32 (N, 4)  x0, y0, x1, y1 in px of the frame
              scores     float32 (N,)
              track_ids  int64   (N,)    no id twice in a frame
              rois       float32 (N, 5)  if there: where to look for new tracks; else round their boxes
              detected   bool    (N,)    if there: False where the box is a prediction
    provides  keypoints        float32 (N, K, 2)  px of the frame, those outside of it included
              keypoint_scores  float32 (N, K)     0..1
              keypoints_3d     float32 (N, K, 3)  m around the hip centre, if the model has them
              boxes            the boxes around the keypoints
              rois             the regions that the model has seen

    A track with a pose is looked for where that pose says, whether or not the detector or the tracker has it
    on this frame; it starts anew from a detection that is elsewhere. Left out are rows in which the model
    sees nobody (counted as `no_pose`), younger tracks on a person that has one already (`duplicate_pose`),
    and rows beyond `max_instances`.
    """

    needs = ("image", "boxes", "scores", "track_ids")
    provides = ("keypoints", "keypoint_scores", "rois")
    per_stream = True
    batch_max = 4

    def __init__(
        self,
        model: Model,
        max_instances: MaxInstances = None,
        min_presence: Presence = None,
        threads: Threads = None,
    ):
        self.model, self.threads = model, threads
        self.max_instances, self.min_presence = max_instances, min_presence
        self.followers: dict[str, Follower] = {}  # by stream

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """The model decides whether there are keypoints in metres.

        Raises:
            OptionError: the model is unknown, or does not estimate poses.
        """
        deep = {"keypoints_3d"} if contract_for("pose", options["model"]).keypoints_3d else set()
        return Ports(frozenset(cls.needs), frozenset(cls.provides) | deep)

    def open(self, run: RunInfo) -> None:
        """Load the model."""
        contract = contract_for("pose", self.model)
        assert isinstance(contract.codec, BlazePoseLandmarksCodec)  # the only codec of pose models so far
        self.roi_scale = contract.codec.roi_scale
        if self.min_presence is None:
            self.min_presence = contract.codec.min_presence
        self.estimator = PoseEstimator(contract, load_engine(contract, threads=self.threads or run.cores))

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Work in rounds, as a frame's regions come from the frame before: one of every stream at a time."""
        results = list(packets)
        for indices in rounds([packet.stream for packet in packets]):
            looked_at = [i for i in indices if packets[i].instances is not None]
            for i, result in zip(looked_at, self._estimate([packets[i] for i in looked_at]), strict=True):
                results[i] = result
        return results

    def _estimate(self, packets: list[Packet]) -> list[Packet]:
        """The poses of one frame of each of several streams, by one run of the engine."""
        chosen = [self._choose(packet) for packet in packets]
        if not chosen:
            return []
        image_index = np.repeat(np.arange(len(chosen)), [len(instances) for instances in chosen])
        rois = np.concatenate([instances.rois for instances in chosen])
        poses = self.estimator([as_image(packet) for packet in packets], image_index, rois)
        results = []
        for i, (packet, instances) in enumerate(zip(packets, chosen, strict=True)):
            own = Poses(*(field[image_index == i] for field in poses))
            results.append(packet.replace(instances=self._accept(packet, instances, own)))
        return results

    def _choose(self, packet: Packet) -> Instances:
        """The rows to look at, with the regions to look in as `rois`."""
        assert packet.instances is not None
        follower = self.followers.setdefault(packet.stream, Follower(self.roi_scale))
        instances = follower.look(packet.instances)
        self._count("restarted", follower.restarted)
        if self.max_instances is None or len(instances) <= self.max_instances:
            return instances
        best = np.lexsort((-instances.scores, ~follower.follows(instances.track_ids)))
        return instances.rows(np.sort(best[: self.max_instances]))

    def _accept(self, packet: Packet, instances: Instances, poses: Poses) -> Instances:
        """The rows that have a pose of their own; where they are is remembered."""
        follower = self.followers[packet.stream]
        since = follower.since(instances.track_ids, packet.seq)
        present = poses.presence >= self.min_presence
        boxes = enclosing_boxes(poses.keypoints)
        repeated = np.zeros_like(present)
        repeated[present] = duplicates(poses.keypoints[present], boxes[present], since[present])
        self._count("no_pose", int((~present).sum()))
        self._count("duplicate_pose", int(repeated.sum()))

        kept = present & ~repeated
        fields = {
            "boxes": boxes[kept],
            "keypoints": poses.keypoints[kept],
            "keypoint_scores": poses.keypoint_scores[kept],
        }
        contract = self.estimator.contract
        if contract.keypoints_3d:
            fields["keypoints_3d"] = poses.keypoints_3d[kept]
        posed = instances.rows(kept).replace(skeleton=contract.skeleton, **fields)
        follower.remember(posed, poses.alignment[kept], packet.seq, packet.pts_ns)
        return posed

    def _count(self, event: str, n: int) -> None:
        if n:  # an event that never happened is not worth a line
            self.count(event, n)

    def reset(self, stream: str) -> None:
        """Forget where the stream's tracks were."""
        self.followers.pop(stream, None)

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """Nothing is held back, so nothing is left to give."""
        self.reset(stream)
        return ()

    def close(self) -> None:
        """Free the model's memory."""
        if estimator := self.__dict__.pop("estimator", None):
            estimator.close()


def rounds(streams: Sequence[str]) -> list[list[int]]:
    """Indices by turn: the first item of every stream, then the second of those that have one, and so on."""
    turns: list[list[int]] = []
    seen: Counter[str] = Counter()
    for index, stream in enumerate(streams):
        if seen[stream] == len(turns):
            turns.append([])
        turns[seen[stream]].append(index)
        seen[stream] += 1
    return turns
