"""Fuse several poses into one: of several models, or of one model on turned, scaled and mirrored crops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engines.device.image import Image
from engines.errors import ContractError
from engines.estimators.topdown import Keypoints, TopDown


class Augmentation(NamedTuple):
    """How a crop differs from the plain one."""

    mirrored: bool = False
    degrees: float = 0.0  # clockwise
    scale: float = 1.0  # of the region; above 1 shows more of the surroundings

    def apply(self, regions: np.ndarray) -> np.ndarray:
        """Regions (N, 5), changed: (N, 5); a width below 0 mirrors."""
        changed = regions.copy()
        changed[:, 2:4] *= self.scale
        changed[:, 4] += np.deg2rad(self.degrees)
        if self.mirrored:
            changed[:, 2] *= -1
        return changed


class Ensemble:
    """Several top-down models, each run on several augmented crops, whose poses are fused."""

    def __init__(
        self, models: Sequence[TopDown], augmentations: Sequence[Augmentation], max_deviation: float
    ):
        """Take models of one skeleton.

        Args:
            models: at least one.
            augmentations: at least one; every model runs on all of them.
            max_deviation: a keypoint further from the others is an outlier and left out; in COCO's standard
                deviations for the keypoint and the size of the box (see `fuse`).

        Raises:
            ContractError: the models have different skeletons.
        """
        skeletons = {model.skeleton.name for model in models}
        if len(skeletons) > 1:
            raise ContractError(f"cannot fuse poses of different skeletons: {', '.join(sorted(skeletons))}")
        self.models, self.augmentations, self.max_deviation = list(models), list(augmentations), max_deviation
        self.skeleton = self.models[0].skeleton

    def __call__(self, images: Sequence[Image], image_index: np.ndarray, boxes: np.ndarray) -> Keypoints:
        """Estimate the pose in each box; arguments and result as for `TopDown`."""
        index = np.tile(image_index, len(self.augmentations))
        shape = (len(self.augmentations), len(boxes), len(self.skeleton.keypoints))
        points, scores = [], []
        for model in self.models:
            plain = model.regions(boxes)
            regions = np.concatenate([augmentation.apply(plain) for augmentation in self.augmentations])
            found = model.in_regions(images, index, regions)
            points.append(found.points.reshape(*shape, 2))
            scores.append(found.scores.reshape(shape))
        # In COCO's OKS, 2 sigma is the standard deviation as a fraction of the square root of the area.
        size = np.sqrt(np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0).prod(axis=1))  # (N,) px
        deviation = 2 * size[:, None] * np.array(self.skeleton.sigmas)  # (N, K) px
        return fuse(np.concatenate(points), np.concatenate(scores), self.max_deviation * deviation)

    @property
    def halved(self) -> int:
        """How often the engines have halved their batches because a device's memory was too small."""
        return sum(model.halved for model in self.models)

    def close(self) -> None:
        """Free the models' memory."""
        for model in self.models:
            model.close()


def fuse(points: np.ndarray, scores: np.ndarray, reach: np.ndarray) -> Keypoints:
    """Fuse V poses of the same N instances: the mean weighted by score, without outliers.

    For each keypoint, the medoid is the pose with the smallest sum of distances to the others, weighted by
    their scores. Poses further than `reach` from the medoid are outliers. So where two poses disagree, the
    one with the higher score wins. The new score is the mean over all V, with 0 for outliers: it reflects how
    sure the poses are and how many agree.

    Args:
        points: (V, N, K, 2) px; NaN does not vote.
        scores: (V, N, K); scores not above 0 do not vote.
        reach: (N, K) px.
    """
    votes = np.where(np.isnan(points).any(axis=-1), 0, np.maximum(scores, 0))  # (V, N, K)
    places = np.nan_to_num(points).astype(np.float64)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)  # (V, V, N, K)
    cost = np.where(votes > 0, (apart * votes[None]).sum(axis=1), np.inf)
    medoid = cost.argmin(axis=0)  # (N, K)
    distance = np.take_along_axis(apart, medoid[None, None], axis=0)[0]  # (V, N, K)
    votes = np.where(distance <= reach, votes, 0)
    total = votes.sum(axis=0)
    mean = (places * votes[..., None]).sum(axis=0) / np.where(total > 0, total, 1)[..., None]
    mean[total == 0] = np.nan
    return Keypoints(mean.astype(np.float32), (total / len(votes)).astype(np.float32))
