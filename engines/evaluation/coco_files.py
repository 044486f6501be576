"""COCO keypoint annotations and results, read into arrays and checked: https://cocodataset.org/#format-data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engines.contracts.skeletons import Skeleton, available_skeletons, load_skeleton
from engines.errors import EngineError


class Annotations(NamedTuple):
    """Ground truth: N instances, a row each, in the order of the file."""

    skeleton: Skeleton
    images: dict[int, str]  # id to file name
    categories: dict[int, str]  # id to name
    image_ids: np.ndarray  # (N,) int64
    category_ids: np.ndarray  # (N,) int64
    boxes: np.ndarray  # (N, 4) float64, x0, y0, width, height in px
    areas: np.ndarray  # (N,) float64, px²
    keypoints: np.ndarray  # (N, K, 3) float64: x, y, and 0 where the keypoint is not labelled
    crowd: np.ndarray  # (N,) bool: a group; any number of detections may match it
    ignored: np.ndarray  # (N,) bool: crowd, or without labelled keypoints; it need not be found


class Results(NamedTuple):
    """What was found: N instances, a row each."""

    image_ids: np.ndarray  # (N,) int64
    category_ids: np.ndarray  # (N,) int64
    scores: np.ndarray  # (N,) float64
    areas: np.ndarray  # (N,) float64, px²
    keypoints: np.ndarray  # (N, K, 2) float64, px


def read_annotations(path: Path, skeleton: str | None = None) -> Annotations:
    """Read ground truth.

    Args:
        path: a JSON file with `images`, `categories` and `annotations`.
        skeleton: its name, if the file's keypoint names match no known skeleton.

    Raises:
        EngineError: the file is missing or damaged, has no keypoints, or keypoints of another skeleton.
    """
    data = read_json(path)
    try:
        categories = {it["id"]: it["name"] for it in data["categories"]}
        rows = [it for it in data["annotations"] if "keypoints" in it]
        named: list[str] = next((it["keypoints"] for it in data["categories"] if it.get("keypoints")), [])
        if not rows:
            raise EngineError(f"{path}: expected annotations with keypoints, found none")
        known = load_skeleton(skeleton) if skeleton else _skeleton_of(named, path)
        keypoints = _keypoints([it["keypoints"] for it in rows], known, path)
        crowd = np.array([bool(it.get("iscrowd", 0)) for it in rows])
        labelled = (keypoints[..., 2] > 0).sum(axis=1)
        counts = np.array([it.get("num_keypoints", n) for it, n in zip(rows, labelled, strict=True)])
        return Annotations(
            known,
            {it["id"]: it["file_name"] for it in data["images"]},
            categories,
            np.array([it["image_id"] for it in rows], np.int64),
            np.array([it["category_id"] for it in rows], np.int64),
            np.array([it["bbox"] for it in rows], np.float64).reshape(-1, 4),
            np.array([it["area"] for it in rows], np.float64),
            keypoints,
            crowd,
            crowd | (counts == 0),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(
            f"{path}: expected COCO keypoint annotations, found {type(error).__name__}: {error}"
        ) from None


def results_of(entries: Sequence[dict[str, Any]], annotations: Annotations, where: str) -> Results:
    """Entries of a COCO results file, as arrays; `where` is the file, for messages.

    As in pycocotools, an instance's area is that of its box; if the first entry has no box, it is the area of
    the box around the keypoints, for all entries.

    Raises:
        EngineError: an entry lacks a field, is of an image that is not annotated, or has other keypoints.
    """
    try:
        keypoints = _keypoints([it["keypoints"] for it in entries], annotations.skeleton, where)[..., :2]
        image_ids = np.array([it["image_id"] for it in entries], np.int64)
        if entries and entries[0].get("bbox"):
            areas = np.array([it["bbox"][2] * it["bbox"][3] for it in entries], np.float64)
        else:
            areas = np.prod(keypoints.max(axis=1) - keypoints.min(axis=1), axis=1)
        results = Results(
            image_ids,
            np.array([it["category_id"] for it in entries], np.int64),
            np.array([it["score"] for it in entries], np.float64),
            areas,
            keypoints,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(
            f"{where}: expected COCO keypoint results, found {type(error).__name__}: {error}"
        ) from None
    unknown = np.setdiff1d(image_ids, list(annotations.images))
    if len(unknown):
        raise EngineError(
            f"{where}: image_id {unknown[0]} is not in the annotations, which have {min(annotations.images)} "
            f"to {max(annotations.images)}; results of a folder that was run as one source number its "
            "images, so name the folder: --images"
        )
    return results


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        EngineError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError:
        raise EngineError(f"no file {path}") from None
    except ValueError as error:
        raise EngineError(f"{path}: expected JSON, found {error}") from None


def _keypoints(rows: list[list[float]], skeleton: Skeleton, where: Path | str) -> np.ndarray:
    """(N, K, 3)."""
    expected = len(skeleton.keypoints)
    for row in rows:
        if len(row) != 3 * expected:
            raise EngineError(
                f"{where}: expected the {expected} keypoints of {skeleton.name}, found {len(row) / 3:g}"
            )
    return np.array(rows, np.float64).reshape(-1, expected, 3)


def _skeleton_of(names: list[str], path: Path) -> Skeleton:
    """The skeleton whose keypoints have these names, in this order."""
    for known in available_skeletons():
        if [*load_skeleton(known).keypoints] == names:
            return load_skeleton(known)
    raise EngineError(
        f"{path}: its {len(names)} keypoints {names[:3]} … match no known skeleton; name one with "
        f"that many: --skeleton {', '.join(available_skeletons())}"
    )
