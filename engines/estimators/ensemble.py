"""One pose from several: of several models, or of one that looks at turned, scaled and mirrored crops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engines.device.image import Image
from engines.errors import ContractError
from engines.estimators.topdown import Keypoints, TopDown


class Look(NamedTuple):
    """How a crop differs from the plain one."""

    mirrored: bool = False
    degrees: float = 0.0  # clockwise
    scale: float = 1.0  # of what the model sees; above 1 is more of the surroundings

    def at(self, regions: np.ndarray) -> np.ndarray:
        """Regions (N, 5) looked at in this way: (N, 5); a width below 0 mirrors."""
        changed = regions.copy()
        changed[:, 2:4] *= self.scale
        changed[:, 4] += np.deg2rad(self.degrees)
        if self.mirrored:
            changed[:, 2] *= -1
        return changed


class Ensemble:
    """Several models, each of which takes several looks; their poses made one."""

    def __init__(self, models: Sequence[TopDown], looks: Sequence[Look], max_deviation: float):
        """Take models of one skeleton.

        Args:
            models: at least one.
            looks: at least one; every model takes all of them.
            max_deviation: poses further from the others are left out, a keypoint at a time; in COCO's
                standard deviations for the keypoint and the size of the box (see `fuse`).

        Raises:
            ContractError: the models have different skeletons.
        """
        skeletons = {model.skeleton.name for model in models}
        if len(skeletons) > 1:
            raise ContractError(f"cannot fuse poses of different skeletons: {', '.join(sorted(skeletons))}")
        self.models, self.looks, self.max_deviation = list(models), list(looks), max_deviation
        self.skeleton = self.models[0].skeleton

    def __call__(self, images: Sequence[Image], image_index: np.ndarray, boxes: np.ndarray) -> Keypoints:
        """Estimate the pose in each box; arguments and result as those of `TopDown`."""
        index = np.tile(image_index, len(self.looks))
        shape = (len(self.looks), len(boxes), len(self.skeleton.keypoints))
        points, scores = [], []
        for model in self.models:
            plain = model.regions(boxes)
            found = model.in_regions(images, index, np.concatenate([look.at(plain) for look in self.looks]))
            points.append(found.points.reshape(*shape, 2))
            scores.append(found.scores.reshape(shape))
        # Twice sigma is the standard deviation in COCO's OKS, in parts of the root of the area.
        size = np.sqrt(np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0).prod(axis=1))  # (N,) px
        deviation = 2 * size[:, None] * np.array(self.skeleton.sigmas)  # (N, K) px
        return fuse(np.concatenate(points), np.concatenate(scores), self.max_deviation * deviation)

    @property
    def halved(self) -> int:
        """How often the engines have halved their batches, since a device's memory was too small."""
        return sum(model.halved for model in self.models)

    def close(self) -> None:
        """Free the models' memory."""
        for model in self.models:
            model.close()


def fuse(points: np.ndarray, scores: np.ndarray, reach: np.ndarray) -> Keypoints:
    """V poses of the same N instances as one: the mean by their scores, without outliers.

    For each keypoint the pose that the others are nearest to, by scores (the medoid), is the judge: what
    is further from it than `reach` is left out. So of two that disagree the surer one holds. The new score is
    the mean of all V, with 0 for what was left out: it says how sure the poses are, and how many agree.

    Args:
        points: (V, N, K, 2) px; NaN is no vote.
        scores: (V, N, K); those that are not above 0 are no vote.
        reach: (N, K) px.
    """
    votes = np.where(np.isnan(points).any(axis=-1), 0, np.maximum(scores, 0))  # (V, N, K)
    places = np.nan_to_num(points).astype(np.float64)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)  # (V, V, N, K)
    cost = np.where(votes > 0, (apart * votes[None]).sum(axis=1), np.inf)
    judge = cost.argmin(axis=0)  # (N, K)
    distance = np.take_along_axis(apart, judge[None, None], axis=0)[0]  # (V, N, K)
    votes = np.where(distance <= reach, votes, 0)
    total = votes.sum(axis=0)
    mean = (places * votes[..., None]).sum(axis=0) / np.where(total > 0, total, 1)[..., None]
    mean[total == 0] = np.nan
    return Keypoints(mean.astype(np.float32), (total / len(votes)).astype(np.float32))
