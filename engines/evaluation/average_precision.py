"""Average precision and recall of keypoints by OKS, the same numbers as pycocotools'.

https://cocodataset.org/#keypoints-eval; Ronchi and Perona, "Benchmarking and Error Diagnosis in
Multi-Instance Pose Estimation" (arXiv:1707.05388). A test compares it with pycocotools, which is not used
itself: it is a compiled package, prints its results, and ignores keypoints when categories are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from engines.evaluation.coco_files import Annotations, Results

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of OKS
RECALLS = np.linspace(0, 1, 101)  # at which precision is averaged
MAX_DETECTIONS = 20  # per category and image
AREAS = {"": (0.0, 1e10), "M": (32.0**2, 96.0**2), "L": (96.0**2, 1e10)}  # px²; both limits are included
TINY = np.spacing(1)


class _Matches(NamedTuple):
    """The D detections of one category in one image, best first, at T thresholds."""

    scores: np.ndarray  # (D,)
    right: np.ndarray  # (T, D) bool: it matches an instance
    ignored: np.ndarray  # (T, D) bool: it counts neither as right nor as wrong
    instances: int  # number of instances that must be found


def evaluate(annotations: Annotations, results: Results, *, any_category: bool = False) -> dict[str, float]:
    """AP and AR over all thresholds, at 0.5 and 0.75, and of medium and large instances.

    Args:
        annotations: ground truth.
        results: what was found.
        any_category: categories are ignored; else each category is evaluated on its own, and the figures are
            means over the categories that occur.

    Returns:
        AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM, ARL; NaN where there is nothing to find.
    """
    if any_category:
        annotations = annotations._replace(category_ids=np.zeros_like(annotations.category_ids))
        results = results._replace(category_ids=np.zeros_like(results.category_ids))
    precision, recall = {}, {}
    for size, limits in AREAS.items():
        curves = [
            _curves(list(_match_all(annotations, results, category, limits)))
            for category in np.unique(annotations.category_ids)
        ]
        precision[size], recall[size] = (np.array(part) for part in zip(*curves, strict=True))
    half, three_quarters = (int(np.argmin(np.abs(THRESHOLDS - at))) for at in (0.5, 0.75))
    figures = {}
    for name, values in (("AP", precision), ("AR", recall)):  # (categories, T, …)
        figures[name] = _mean(values[""])
        figures[f"{name}50"] = _mean(values[""][:, half])
        figures[f"{name}75"] = _mean(values[""][:, three_quarters])
        figures[f"{name}M"] = _mean(values["M"])
        figures[f"{name}L"] = _mean(values["L"])
    return figures


def oks(
    found: np.ndarray, truth: np.ndarray, boxes: np.ndarray, areas: np.ndarray, sigmas: np.ndarray
) -> np.ndarray:
    """Object keypoint similarity (D, G) of found and annotated keypoints.

    Args:
        found: (D, K, 2) px.
        truth: (G, K, 3) x, y, and 0 where not labelled. An instance without labelled keypoints is compared by
            the distances to its box, enlarged by its size on each side, so that detections in it are ignored.
        boxes: (G, 4) x0, y0, width, height of the instances.
        areas: (G,) px².
        sigmas: (K,) of the skeleton.
    """
    labelled: np.ndarray = truth[..., 2] > 0  # (G, K)
    from_truth = found[:, None] - truth[None, ..., :2]  # (D, G, K, 2)
    low = (boxes[:, :2] - boxes[:, 2:])[:, None]
    high = (boxes[:, :2] + 2 * boxes[:, 2:])[:, None]
    from_box = np.maximum(low - found[:, None], 0) + np.maximum(found[:, None] - high, 0)
    without = np.logical_not(labelled.any(axis=1))  # (G,)
    gaps = np.where(without[:, None, None], from_box, from_truth)
    error = (gaps**2).sum(axis=-1) / (2 * sigmas) ** 2 / (areas + TINY)[:, None] / 2  # (D, G, K)
    counted = labelled | without[:, None]
    return (np.exp(-error) * counted).sum(axis=-1) / counted.sum(axis=-1)


def _match_all(
    annotations: Annotations, results: Results, category: int, limits: tuple[float, float]
) -> Iterator[_Matches]:
    """The matches of each image that has detections or instances."""
    instances = _by_image(annotations.image_ids, annotations.category_ids == category)
    detections = _by_image(results.image_ids, results.category_ids == category)
    none = np.empty(0, np.intp)
    for image in sorted(instances.keys() | detections.keys()):
        found = detections.get(image, none)
        found = found[np.argsort(-results.scores[found], kind="stable")][:MAX_DETECTIONS]
        yield _match(annotations, instances.get(image, none), results, found, limits)


def _match(
    annotations: Annotations,
    rows: np.ndarray,
    results: Results,
    found: np.ndarray,
    limits: tuple[float, float],
) -> _Matches:
    """Match each detection, best first, with the most similar instance that is still free."""
    ignored = annotations.ignored[rows] | _outside(annotations.areas[rows], limits)
    order = np.argsort(ignored, kind="stable")
    rows, ignored = rows[order], ignored[order]
    similarity = oks(
        results.keypoints[found],
        annotations.keypoints[rows],
        annotations.boxes[rows],
        annotations.areas[rows],
        np.array(annotations.skeleton.sigmas),
    )
    required, crowd = int((~ignored).sum()), annotations.crowd[rows]
    thresholds, every = THRESHOLDS[:, None], np.arange(len(THRESHOLDS))
    free = np.ones((len(THRESHOLDS), len(rows)), np.bool_)
    right = np.zeros((len(THRESHOLDS), len(found)), np.bool_)
    set_aside = np.zeros_like(right)
    for d in range(len(found) if len(rows) else 0):
        fitting = np.where(free & (similarity[d] >= thresholds), similarity[d], -1.0)  # (T, G)
        # An ignored instance is matched only where no other instance fits.
        fitting[:, required:][(fitting[:, :required] >= 0).any(axis=1)] = -1.0
        # Of equal similarities the last, as in pycocotools.
        best = len(rows) - 1 - fitting[:, ::-1].argmax(axis=1)
        right[:, d] = met = fitting[every, best] >= 0
        set_aside[:, d] = met & ignored[best]
        free[every, best] &= ~met | crowd[best]
    set_aside |= ~right & _outside(results.areas[found], limits)
    return _Matches(results.scores[found], right, set_aside, required)


def _curves(matches: list[_Matches]) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, 101) at the recalls, and the highest recall (T,); NaN where there is nothing to find."""
    precision = np.full((len(THRESHOLDS), len(RECALLS)), np.nan)
    instances = sum(one.instances for one in matches)
    if not instances:
        return precision, precision[:, 0]
    order = np.argsort(-np.concatenate([one.scores for one in matches]), kind="stable")
    right = np.concatenate([one.right for one in matches], axis=1)[:, order]  # (T, D)
    ignored = np.concatenate([one.ignored for one in matches], axis=1)[:, order]
    hits, misses = (np.cumsum(it & ~ignored, axis=1, dtype=np.float64) for it in (right, ~right))
    if not len(order):
        return np.zeros_like(precision), np.zeros(len(THRESHOLDS))
    recall = hits / instances  # (T, D)
    at_best = np.maximum.accumulate((hits / (hits + misses + TINY))[:, ::-1], axis=1)[:, ::-1]
    for t in range(len(THRESHOLDS)):
        reached = np.searchsorted(recall[t], RECALLS, side="left")
        precision[t] = np.append(at_best[t], 0.0)[reached]
    return precision, recall[:, -1]


def _by_image(image_ids: np.ndarray, chosen: np.ndarray) -> dict[int, np.ndarray]:
    """The chosen rows by image, in their original order."""
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(image_ids[rows], kind="stable")]
    images, starts = np.unique(image_ids[rows], return_index=True)
    return dict(zip(images.tolist(), np.split(rows, starts[1:]), strict=True)) if len(rows) else {}


def _outside(areas: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (areas < limits[0]) | (areas > limits[1])


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
