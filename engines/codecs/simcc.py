"""Read SimCC models: for each keypoint a classification along x and one along y (arXiv:2107.03332)."""

from __future__ import annotations

import numpy as np

from engines.contract import Contract, SimccCodec


def decode(outputs: dict[str, np.ndarray], contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    """The keypoints (N, K, 2) float32, in px of the input, and their scores (N, K) float32, unclipped.

    A score is the lower one of the two maxima, as in MMPose's `get_simcc_maximum`; that of a model trained
    with MMPose can be above 1. A keypoint whose score is not above 0 is NaN: the model gave none.

    Args:
        outputs: simcc_x (N, K, width · split_ratio), simcc_y (N, K, height · split_ratio).
        contract: whose codec is `simcc`.
    """
    codec = contract.codec
    assert isinstance(codec, SimccCodec)  # the registry dispatches on it
    bins_x, best_x = _peaks(outputs["simcc_x"])
    bins_y, best_y = _peaks(outputs["simcc_y"])
    points = np.stack([bins_x, bins_y], axis=-1).astype(np.float32) / np.float32(codec.split_ratio)
    scores = np.minimum(best_x, best_y)
    points[~(scores > 0)] = np.nan
    return points, scores


def mirror_back(
    outputs: dict[str, np.ndarray], contract: Contract, pairs: np.ndarray
) -> dict[str, np.ndarray]:
    """What the model said of mirrored crops, as if it were said of the crops: MMPose's `flip_vectors`.

    Args:
        outputs: as for `decode`.
        contract: likewise.
        pairs: (K,) which keypoint each is in the mirror.
    """
    return {"simcc_x": outputs["simcc_x"][:, pairs, ::-1], "simcc_y": outputs["simcc_y"][:, pairs]}


def _peaks(bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place and height of the maxima along the last axis."""
    at = bins.argmax(axis=-1)
    return at, np.take_along_axis(bins, at[..., None], axis=-1)[..., 0].astype(np.float32, copy=False)
