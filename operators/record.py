"""The record: what is known of one frame, for files and messages, and back. `docs/schema.md` describes it.

Three things apart: `header` says how to read the records of a stream, `record` makes a map of a packet
whose leaves are numbers, strings and small arrays, `to_json` encodes either. Another encoding takes the same
maps.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orjson

from engines.errors import ContractError
from engines.skeletons import load_skeleton
from pipeline.packet import FIELDS, Instances, Packet

SCHEMA = "posestream/1"
UNITS = {
    "pts_ns": "ns on the stream's own clock",
    "captured_ns": "ns since 1970-01-01 UTC",
    "size": "px: width, height",
    "box": "px of the frame: x0, y0, x1, y1; to 0.01",
    "score": "0..1; to 0.0001",
    "keypoints": "x, y in px of the frame, to 0.01; score as the model gives it, to 0.0001",
    "keypoints_3d": "m: x, y, z; to 0.0001",
}

log = logging.getLogger("posestream.record")


def header(run: str, stream: str, skeletons: Iterable[str] = ()) -> dict[str, Any]:
    """What stands in front of a stream's records; limbs are pairs of indices into the keypoints.

    A skeleton that is not in `configs/skeletons` is left out, with a warning.
    """
    known = {}
    for name in skeletons:
        try:
            skeleton = load_skeleton(name)
        except ContractError as error:
            log.warning("the header of %s cannot describe its keypoints: %s", stream, error)
            continue
        known[name] = {"keypoints": list(skeleton.keypoints), "limbs": skeleton.limb_indices.tolist()}
    return {"schema": SCHEMA, "run": run, "stream": stream, "skeletons": known, "units": UNITS}


def record(packet: Packet) -> dict[str, Any]:
    """One frame. What no operator provided is absent; so are an instance's own gaps."""
    frame: dict[str, Any] = {
        "stream": packet.stream,
        "seq": packet.seq,
        "pts_ns": packet.pts_ns,
        "captured_ns": packet.captured_ns,
        "size": list(packet.size),
    }
    if packet.instances is not None:
        frame["instances"] = _rows(packet.instances)
    return frame


def to_json(data: Mapping[str, Any]) -> bytes:
    """A header or a record as one line of JSON, newline included."""
    return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _rows(instances: Instances) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{} for _ in range(len(instances))]
    if (track_ids := instances.get("track_ids")) is not None:
        for row, track_id in zip(rows, track_ids.tolist(), strict=True):
            if track_id >= 0:  # negative: not tracked
                row["track_id"] = track_id
    if (labels := instances.get("labels")) is not None:
        for row, label in zip(rows, labels.tolist(), strict=True):
            if label is not None:
                row["label"] = label
    if (detected := instances.get("detected")) is not None:
        for row, value in zip(rows, detected.tolist(), strict=True):
            row["detected"] = value
    _add(rows, "score", instances.get("scores"), 4)
    _add(rows, "box", instances.get("boxes"), 2)
    keypoints = instances.get("keypoints")
    if keypoints is not None and keypoints.size:
        points = np.round(keypoints, 2)
        if (scores := instances.get("keypoint_scores")) is not None:
            points = np.concatenate([points, np.round(scores, 4)[..., None]], axis=2)  # (N, K, 3)
        if instances.skeleton is not None:
            for row in rows:
                row["skeleton"] = instances.skeleton
        _add_points(rows, "keypoints", points, ~np.isfinite(keypoints).all(axis=2))
    deep = instances.get("keypoints_3d")
    if deep is not None and deep.size:
        _add_points(rows, "keypoints_3d", np.round(deep, 4), ~np.isfinite(deep).all(axis=2))
    return rows


def _add(rows: list[dict[str, Any]], name: str, values: np.ndarray | None, decimals: int) -> None:
    if values is None:
        return
    for row, value in zip(rows, np.round(values, decimals), strict=True):
        if np.isfinite(value).all():
            row[name] = value  # a float32, alone or in an array, is written with the digits that it has


def _add_points(rows: list[dict[str, Any]], name: str, points: np.ndarray, missing: np.ndarray) -> None:
    """`points` (N, K, D) as they are; without those of which `missing` (N, K) is true."""
    gaps = missing.sum(axis=1).tolist()
    for i, row in enumerate(rows):
        if gaps[i] == 0:
            row[name] = points[i]
        elif gaps[i] < missing.shape[1]:
            row[name] = [None if gap else p for gap, p in zip(missing[i].tolist(), points[i], strict=True)]


def packet_of(frame: Mapping[str, Any]) -> Packet:
    """The packet of a record, without its image; what an instance lacks is NaN, -1 (track id), None (label).

    Raises:
        ValueError: not a record, or instances of several skeletons.
    """
    try:
        rows = frame.get("instances")
        return Packet(
            stream=frame["stream"],
            seq=frame["seq"],
            pts_ns=frame["pts_ns"],
            captured_ns=frame["captured_ns"],
            size=(frame["size"][0], frame["size"][1]),
            instances=None if rows is None else instances_of(rows),
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"not a record of {SCHEMA}: {type(error).__name__} {error}") from None


def instances_of(rows: list[Mapping[str, Any]]) -> Instances:
    """The instances of a record.

    Raises:
        ValueError: rows of several skeletons, or fields of a wrong shape.
    """
    if not rows:
        return Instances.empty()
    skeletons = {row["skeleton"] for row in rows if "skeleton" in row}
    if len(skeletons) > 1:
        raise ValueError(
            f"instances of one frame have several skeletons, {', '.join(sorted(skeletons))}; expected one"
        )
    fields: dict[str, np.ndarray] = {}
    named = (("box", "boxes"), ("score", "scores"), ("label", "labels"), ("track_id", "track_ids"),
             ("detected", "detected"))  # fmt: skip
    for key, name in named:
        found = [row.get(key) for row in rows]
        if any(value is not None for value in found):
            fields[name] = _column(name, found)
    points = _points([row.get("keypoints") for row in rows])
    if points is not None:
        fields["keypoints"] = np.ascontiguousarray(points[..., :2])
        if points.shape[2] == 3:
            fields["keypoint_scores"] = np.ascontiguousarray(points[..., 2])
    deep = _points([row.get("keypoints_3d") for row in rows])
    if deep is not None:
        fields["keypoints_3d"] = deep
    return Instances(skeleton=next(iter(skeletons), None), **fields).validate()


def _column(name: str, found: list[Any]) -> np.ndarray:
    """The values of all rows; what a row lacks is NaN, -1, None, or (detected) true."""
    if name == "labels":
        return np.array([*found, None], np.object_)[:-1]  # the None keeps NumPy from looking into strings
    if name == "track_ids":
        return np.array([-1 if value is None else value for value in found], np.int64)
    if name == "detected":
        return np.array([value is not False for value in found], np.bool_)
    shape = FIELDS[name][1]
    gap = np.full([d for d in shape if isinstance(d, int)], np.nan)
    return np.array([gap if value is None else value for value in found], np.float32)


def _points(found: list[Any]) -> np.ndarray | None:
    """(N, K, D) float32 of lists of K points, any of which may be None; None if no row has any."""
    first: list[Any] = next((points for points in found if points), [])
    point = next((point for point in first if point is not None), None)
    if point is None:
        return None
    gap = [float("nan")] * len(point)
    empty = [gap] * len(first)
    return np.array(
        [empty if points is None else [gap if p is None else p for p in points] for points in found],
        np.float32,
    )
