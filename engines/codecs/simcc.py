"""Read SimCC models: for each keypoint a classification along x and one along y (arXiv:2107.03332)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from engines.codecs.base import ExpectedOutput, ModelSizes, TopDownCodec
from engines.codecs.detections import Reduced
from engines.device.arrays import Array, Outputs, indices, is_tensor, namespace, single


class SimccCodec(TopDownCodec):
    """A classification along x and one along y for each keypoint; the numbers are those of MMPose."""

    kind: Literal["simcc"]
    split_ratio: float = Field(gt=0, description="bins a px of the input")

    def expected_outputs(self, model: ModelSizes) -> dict[str, ExpectedOutput]:
        """Bins along each axis."""
        (width, height), keypoints, ratio = model.input_size, model.keypoints, self.split_ratio
        points = f"{keypoints} keypoints of {model.skeleton}"
        reason = f"{width}x{height} px at {ratio:g} bins a px and {points}"
        return {
            "simcc_x": ExpectedOutput((-1, keypoints, round(width * ratio)), reason),
            "simcc_y": ExpectedOutput((-1, keypoints, round(height * ratio)), reason),
        }

    def reduce(self, outputs: Outputs) -> Reduced:
        """The highest `bins` x, y (N, K, 2), and `scores` (N, K) float32.

        A score is the lower one of the two maxima, as in MMPose's `get_simcc_maximum`; of a model trained
        with MMPose it can be above 1.

        Args:
            outputs: simcc_x (N, K, width · split_ratio), simcc_y (N, K, height · split_ratio).
        """
        bins_x, best_x = _peaks(outputs["simcc_x"])
        bins_y, best_y = _peaks(outputs["simcc_y"])
        xp = namespace(bins_x)
        return {"bins": xp.stack([bins_x, bins_y], -1), "scores": xp.minimum(best_x, best_y)}

    def finish(
        self, reduced: Mapping[str, np.ndarray], input_size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `TopDownCodec.finish`; a bin is 1 / `split_ratio` px, whatever the input size."""
        scores = reduced["scores"]
        points = reduced["bins"].astype(np.float32) / np.float32(self.split_ratio)
        points[~(scores > 0)] = np.nan
        return points, scores

    def mirror_back(self, outputs: Outputs, mirror: np.ndarray) -> Outputs:
        """See `TopDownCodec.mirror_back`; as MMPose's `flip_vectors`."""
        x, y = outputs["simcc_x"], outputs["simcc_y"]
        order = indices(mirror, x)
        return {"simcc_x": namespace(x).flip(x[:, order], (-1,)), "simcc_y": y[:, order]}


def _peaks(bins: Array) -> tuple[Array, Array]:
    """Index and height of the maxima along the last axis; the first one of equal maxima."""
    if is_tensor(bins):
        highest = bins.max(dim=-1)
        return highest.indices, single(highest.values)
    at = bins.argmax(axis=-1)
    return at, single(np.take_along_axis(bins, at[..., None], axis=-1)[..., 0])
