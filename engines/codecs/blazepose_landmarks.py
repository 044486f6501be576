"""Read the BlazePose landmark model: landmarks in the crop, refined on heatmaps, and in metres.

Steps as in MediaPipe 0.10's TensorsToLandmarksCalculator and RefineLandmarksFromHeatmapCalculator.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from engines.codecs.base import Codec, ExpectedOutput, ModelSizes
from engines.codecs.blazepose_alignment import sigmoid
from engines.device.arrays import Outputs

VALUES_PER_LANDMARK = 5  # x, y, z, visibility, presence


class Landmarks(NamedTuple):
    """The landmarks of N crops; K is the skeleton's number of keypoints."""

    points: np.ndarray  # (N, K, 2) px of the crop
    visibility: np.ndarray  # (N, K) 0..1
    world: np.ndarray  # (N, K, 3) m, around the hip centre, axes of the crop
    presence: np.ndarray  # (N,) 0..1
    alignment: np.ndarray  # (N, 2, 2) px of the crop: hip centre, point on the body circle


class BlazePoseLandmarksCodec(Codec):
    """Landmarks in crop pixels, refined on heatmaps, with auxiliary points for the next crop."""

    kind: Literal["blazepose-landmarks"]
    landmarks: int = Field(description="rows of the landmark output, auxiliary and unused ones included")
    auxiliary: tuple[int, int] = Field(description="rows of hip centre and of the body's circle")
    refine_kernel: int = Field(description="side of the heatmap window, in cells")
    min_refine_score: float
    min_presence: float
    roi_scale: float

    def expected_outputs(self, model: ModelSizes) -> dict[str, ExpectedOutput]:
        """The landmarks in a row; the other outputs are not checked."""
        reason = f"{self.landmarks} landmarks of {VALUES_PER_LANDMARK} values"
        return {"landmarks": ExpectedOutput((-1, self.landmarks * VALUES_PER_LANDMARK), reason)}

    def contradiction(self, model: ModelSizes) -> str | None:
        """The skeleton's keypoints must be the rows in front of the auxiliary ones."""
        if model.skeleton is None or model.keypoints == min(self.auxiliary):
            return None
        return (
            f"skeleton {model.skeleton!r} has {model.keypoints} keypoints, the model has "
            f"{min(self.auxiliary)} in front of its auxiliary ones; name the skeleton it was trained with"
        )

    def decode(self, outputs: Outputs, input_size: tuple[int, int]) -> Landmarks:
        """The landmarks of N crops; the keypoints are the rows in front of the auxiliary ones.

        Args:
            outputs: arrays: landmarks (N, L·5), presence (N, 1), heatmaps (N, h, w, L), world_landmarks
                (N, L·3).
            input_size: width, height of a crop in px.
        """
        keypoints = min(self.auxiliary)
        used = max(self.auxiliary) + 1  # the rows behind belong to the hands and are not used
        raw = outputs["landmarks"].reshape(-1, self.landmarks, VALUES_PER_LANDMARK)
        size = np.array(input_size, np.float32)
        heatmaps, kernel = outputs["heatmaps"], self.refine_kernel
        points = refine(raw[:, :used, :2] / size, heatmaps, kernel, self.min_refine_score) * size
        return Landmarks(
            points=points[:, :keypoints],
            visibility=sigmoid(raw[:, :keypoints, 3]),
            world=outputs["world_landmarks"].reshape(-1, self.landmarks, 3)[:, :keypoints],
            presence=outputs["presence"][:, 0],
            alignment=points[:, list(self.auxiliary)],
        )


def refine(points: np.ndarray, heatmaps: np.ndarray, kernel: int, min_score: float) -> np.ndarray:
    """Move points (N, P, 2), in fractions of the crop, to the centre of mass of the heatmap around them.

    A point stays where it is if it lies outside the map, or if no cell in its window of kernel x kernel cells
    reaches the probability `min_score`. Heatmaps (N, h, w, L ≥ P) are logits.
    """
    count, height, width, landmarks = heatmaps.shape
    cell = (points * np.array([width, height], np.float32)).astype(np.intp)  # towards 0, as MediaPipe
    reach = np.arange(kernel) - kernel // 2
    columns, rows = cell[..., :1] + reach, cell[..., 1:] + reach  # (N, P, kernel)
    on_column, on_row = (columns >= 0) & (columns < width), (rows >= 0) & (rows < height)
    first = np.arange(count)[:, None, None] * height + rows
    index = (first[..., None] * width + columns[..., None, :]) * landmarks  # (N, P, kernel, kernel)
    index += np.arange(points.shape[1])[:, None, None]
    # A cell outside the map reads some other cell; its weight becomes 0 below.
    weights = sigmoid(heatmaps.take(index, mode="clip")) if count else np.zeros(index.shape, np.float32)
    weights *= on_row[..., :, None] & on_column[..., None, :]
    by_row = weights.sum(axis=3)  # (N, P, kernel)
    total = by_row.sum(axis=2)
    on_map = on_column[..., kernel // 2] & on_row[..., kernel // 2]
    refined = on_map & (weights.max(axis=(2, 3)) >= min_score)  # (N, P)
    total[~refined] = 1
    x = (weights.sum(axis=2) * columns).sum(axis=2) / (total * width)
    y = (by_row * rows).sum(axis=2) / (total * height)
    return np.where(refined[..., None], np.stack([x, y], axis=-1), points).astype(np.float32)
