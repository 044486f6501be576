"""From packets to records: maps for JSON files and messages, as `docs/schema.md` describes them.

`header` describes the records of a stream. `record` makes a map whose leaves are numbers, strings and small
arrays. `to_json` encodes both; other encodings take the same maps.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orjson

from engines.contracts.skeletons import load_skeleton
from engines.errors import ContractError
from operators.records.schema import EVENT_KEYS, SCHEMA, UNITS
from pipeline.packet import Event, Instances, Packet

log = logging.getLogger("posestream.record")


def header(run: str, stream: str, skeletons: Iterable[str] = ()) -> dict[str, Any]:
    """The map that precedes the records of a stream; limbs are pairs of indices into the keypoints.

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
    """The record of one frame. Fields that no operator provided are absent, for one instance or for all."""
    record = frame_record(packet)
    if packet.instances is not None:
        record["instances"] = _rows(packet.instances)
    return record


def frame_record(packet: Packet) -> dict[str, Any]:
    """The record of a frame without its instances."""
    frame: dict[str, Any] = {"stream": packet.stream}
    if packet.run:
        frame["run"] = packet.run
    frame |= {
        "seq": packet.seq,
        "pts_ns": packet.pts_ns,
        "captured_ns": packet.captured_ns,
        "size": list(packet.size),
    }
    if packet.epoch:
        frame["epoch"] = packet.epoch
    if packet.moment_ns is not None:
        frame["moment_ns"] = packet.moment_ns
    return frame


def event_record(event: Event) -> dict[str, Any]:
    """The record of an event between two frames; its `details` become keys beside the others.

    Raises:
        ValueError: a detail has the name of one of the other keys.
    """
    own = {"stream": event.stream, "run": event.run, "event": event.kind, "at_ns": event.at_ns}
    if event.resets:
        own["resets"] = True
    if taken := EVENT_KEYS.keys() & event.details.keys():
        raise ValueError(f"details of an event must not be named {', '.join(sorted(taken))}")
    return {key: value for key, value in own.items() if value != ""} | event.details


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
    points_3d = instances.get("keypoints_3d")
    if points_3d is not None and points_3d.size:
        _add_points(rows, "keypoints_3d", np.round(points_3d, 4), ~np.isfinite(points_3d).all(axis=2))
    return rows


def _add(rows: list[dict[str, Any]], name: str, values: np.ndarray | None, decimals: int) -> None:
    if values is None:
        return
    for row, value in zip(rows, np.round(values, decimals), strict=True):
        if np.isfinite(value).all():
            row[name] = value  # orjson writes a float32 with as few digits as identify it


def _add_points(rows: list[dict[str, Any]], name: str, points: np.ndarray, missing: np.ndarray) -> None:
    """Add `points` (N, K, D) to the rows; a point of which `missing` (N, K) is true becomes None."""
    gaps = missing.sum(axis=1).tolist()
    for i, row in enumerate(rows):
        if gaps[i] == 0:
            row[name] = points[i]
        elif gaps[i] < missing.shape[1]:
            row[name] = [None if gap else p for gap, p in zip(missing[i].tolist(), points[i], strict=True)]
