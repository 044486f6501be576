"""Poses of instances in their boxes: used by `pose` with top-down models, and by `fuse`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from engines.contracts.skeletons import Skeleton
from engines.device.image import Image
from engines.estimators.topdown import Keypoints
from operators.estimation.model_options import as_image
from pipeline.packet import Instances, Packet


class BoxEstimator(Protocol):
    """Estimates a pose in each box: `estimators.topdown.TopDown` or `estimators.ensemble.Ensemble`."""

    skeleton: Skeleton

    @property
    def halved(self) -> int:
        """How often its engines have halved their batches because memory was too small."""
        ...

    def __call__(self, images: Sequence[Image], image_index: np.ndarray, boxes: np.ndarray) -> Keypoints:
        """The pose in each of `boxes` (N, 4); box n lies in `images[image_index[n]]`; N may be 0."""
        ...

    def close(self) -> None:
        """Free the models' memory."""
        ...


class TopDownPoses:
    """Estimates all instances of all packets of a batch at once, across streams; keeps no state."""

    def __init__(self, estimator: BoxEstimator, max_instances: int | None):
        self.estimator, self.max_instances = estimator, max_instances

    def process(self, packets: list[Packet]) -> list[Packet]:
        """The packets with keypoints; frames without detection (`instances` is None) are unchanged."""
        chosen = [self._best(packet.instances) for packet in packets if packet.instances is not None]
        if not chosen:
            return packets
        looked_at = [i for i, packet in enumerate(packets) if packet.instances is not None]
        counts = [len(instances) for instances in chosen]
        poses = self.estimator(
            [as_image(packets[i]) for i in looked_at],
            np.repeat(np.arange(len(chosen)), counts),
            np.concatenate([instances.boxes for instances in chosen]),
        )
        results, start = list(packets), 0
        for i, instances, count in zip(looked_at, chosen, counts, strict=True):
            rows = slice(start, start + count)
            posed = instances.replace(
                skeleton=self.estimator.skeleton.name,
                keypoints=poses.points[rows],
                keypoint_scores=poses.scores[rows],
            )
            results[i] = packets[i].replace(instances=posed)
            start += count
        return results

    def _best(self, instances: Instances) -> Instances:
        if self.max_instances is None or len(instances) <= self.max_instances:
            return instances
        best = np.argsort(-instances.scores, kind="stable")[: self.max_instances]
        return instances.rows(np.sort(best))

    def reset(self, stream: str) -> None:
        """There is no state to forget."""

    def close(self) -> None:
        """Free the model's memory."""
        self.estimator.close()
