"""Read SimCC models: for each keypoint a classification along x and one along y (arXiv:2107.03332)."""

from __future__ import annotations

import numpy as np

from engines.contracts.contract import Contract, SimccCodec
from engines.device.arrays import Array, Outputs, indices, is_tensor, namespace, single


def reduce(outputs: Outputs, contract: Contract) -> dict[str, Array]:
    """The highest bins (N, K, 2), and the lower one of their two heights (N, K) float32.

    Args:
        outputs: simcc_x (N, K, width · split_ratio), simcc_y (N, K, height · split_ratio); arrays or tensors.
        contract: not needed; all codecs are called alike.
    """
    bins_x, best_x = _peaks(outputs["simcc_x"])
    bins_y, best_y = _peaks(outputs["simcc_y"])
    xp = namespace(bins_x)
    return {"bins": xp.stack([bins_x, bins_y], -1), "scores": xp.minimum(best_x, best_y)}


def finish(reduced: dict[str, np.ndarray], contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    """The keypoints (N, K, 2) float32, in px of the input, and their scores (N, K) float32, unclipped.

    A score is the lower one of the two maxima, as in MMPose's `get_simcc_maximum`; that of a model trained
    with MMPose can be above 1. A keypoint whose score is not above 0 is NaN: the model gave none.

    Args:
        reduced: what `reduce` gave, on the host.
        contract: whose codec is `simcc`.
    """
    codec = contract.codec
    assert isinstance(codec, SimccCodec)  # the registry dispatches on it
    scores = reduced["scores"]
    points = reduced["bins"].astype(np.float32) / np.float32(codec.split_ratio)
    points[~(scores > 0)] = np.nan
    return points, scores


def mirror_back(outputs: Outputs, contract: Contract, pairs: np.ndarray) -> Outputs:
    """What the model said of mirrored crops, as if it were said of the crops: MMPose's `flip_vectors`.

    Args:
        outputs: as for `reduce`.
        contract: likewise.
        pairs: (K,) which keypoint each is in the mirror.
    """
    x, y = outputs["simcc_x"], outputs["simcc_y"]
    order = indices(pairs, x)
    return {"simcc_x": namespace(x).flip(x[:, order], (-1,)), "simcc_y": y[:, order]}


def _peaks(bins: Array) -> tuple[Array, Array]:
    """Place and height of the maxima along the last axis; of equal ones the first."""
    if is_tensor(bins):
        highest = bins.max(dim=-1)
        return highest.indices, single(highest.values)
    at = bins.argmax(axis=-1)
    return at, single(np.take_along_axis(bins, at[..., None], axis=-1)[..., 0])
