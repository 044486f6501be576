"""From records back to packets and events; values come from strangers, so each is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from operators.records.schema import EVENT_KEYS, SCHEMA
from pipeline.packet import FIELDS, Event, Instances, Packet

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def packet_of(frame: Mapping[str, Any]) -> Packet:
    """The packet of a record, without its image.

    Values that an instance lacks become NaN, -1 (track id), None (label) or True (detected).

    Raises:
        ValueError: not a record, or instances of several skeletons.
    """
    try:
        rows = frame.get("instances")
        return frame_of(frame, instances=None if rows is None else instances_of(rows))
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a record of {SCHEMA}: {type(error).__name__} {error}") from None


def frame_of(frame: Mapping[str, Any], **more: Any) -> Packet:
    """The packet of a map that `frame_record` has made; `more` are further attributes of the packet.

    Raises:
        ValueError: a key is missing, or a value has a wrong type.
    """
    try:
        return Packet(
            stream=text_value(frame, "stream"),
            seq=int64_value(frame["seq"], "seq", 0),
            pts_ns=int64_value(frame["pts_ns"], "pts_ns"),
            captured_ns=int64_value(frame["captured_ns"], "captured_ns"),
            size=_size(frame["size"]),
            run=text_value(frame, "run", ""),
            epoch=int64_value(frame.get("epoch", 0), "epoch", 0),
            moment_ns=None if (at := frame.get("moment_ns")) is None else int64_value(at, "moment_ns"),
            **more,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record of {SCHEMA}: {type(error).__name__} {error}") from None


def _size(value: Any) -> tuple[int, int]:
    width, height = value
    return int64_value(width, "size", 0), int64_value(height, "size", 0)


def event_of(record: Mapping[str, Any]) -> Event:
    """The event of a map that `event_record` has made.

    Raises:
        ValueError: a key is missing, or a value has a wrong type.
    """
    try:
        return Event(
            stream=text_value(record, "stream"),
            kind=text_value(record, "event"),
            at_ns=int64_value(record["at_ns"], "at_ns"),
            details={key: value for key, value in record.items() if key not in EVENT_KEYS},
            resets=record.get("resets", False) is True,
            run=text_value(record, "run", ""),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an event of {SCHEMA}: {type(error).__name__} {error}") from None


def int64_value(value: Any, key: str, least: int = INT64_MIN) -> int:
    """`value` itself, if it is a whole number of 64 bits and at least `least`; `key` is for the message.

    Raises:
        ValueError: it is not.
    """
    if type(value) is not int or not least <= value <= INT64_MAX:
        raise ValueError(f"{key} must be a whole number from {least}, found {value!r:.60}")
    return value


def text_value(record: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """The text at `key`; without a default the key must exist, and the text must not be empty.

    Raises:
        KeyError: the key is missing and there is no default.
        ValueError: the value is not text, or is empty without a default.
    """
    value = record[key] if default is None else record.get(key, default)
    if not isinstance(value, str) or not (value or default == ""):
        raise ValueError(f"{key} must be a name, found {value!r:.60}")
    return value


def instances_of(rows: list[Mapping[str, Any]]) -> Instances:
    """The instances of a record.

    Raises:
        ValueError: the rows have several skeletons, or fields of a wrong shape.
    """
    if not rows:
        return Instances.empty()
    skeletons = {text_value(row, "skeleton") for row in rows if "skeleton" in row}
    if len(skeletons) > 1:
        raise ValueError(
            f"instances of one frame have several skeletons, {', '.join(sorted(skeletons))}; expected one"
        )
    fields: dict[str, np.ndarray] = {}
    named = (("box", "boxes"), ("score", "scores"), ("label", "labels"), ("track_id", "track_ids"),
             ("detected", "detected"))  # fmt: skip
    for key, name in named:
        values = [row.get(key) for row in rows]
        if any(value is not None for value in values):
            fields[name] = _column(name, values)
    points = _points([row.get("keypoints") for row in rows])
    if points is not None:
        fields["keypoints"] = np.ascontiguousarray(points[..., :2])
        if points.shape[2] == 3:
            fields["keypoint_scores"] = np.ascontiguousarray(points[..., 2])
    points_3d = _points([row.get("keypoints_3d") for row in rows])
    if points_3d is not None:
        fields["keypoints_3d"] = points_3d
    return Instances(skeleton=next(iter(skeletons), None), **fields).validate()


def _column(name: str, values: list[Any]) -> np.ndarray:
    """The values of all rows as an array; None becomes NaN, -1 (track id) or True (detected)."""
    if name == "labels":
        if not all(label is None or isinstance(label, str) for label in values):
            raise ValueError(f"label must be a name, found {values!r:.60}")
        return np.array(values, np.object_)
    if name == "track_ids":
        return np.array([-1 if value is None else value for value in values], np.int64)
    if name == "detected":
        return np.array([value is not False for value in values], np.bool_)
    shape = FIELDS[name][1]
    gap = np.full([d for d in shape if isinstance(d, int)], np.nan)
    return np.array([gap if value is None else value for value in values], np.float32)


def _points(rows: list[Any]) -> np.ndarray | None:
    """(N, K, D) float32 from N lists of K points, where a list or a point may be None; None if all are."""
    first: list[Any] = next((points for points in rows if points), [])
    point = next((point for point in first if point is not None), None)
    if point is None:
        return None
    gap = [float("nan")] * len(point)
    empty = [gap] * len(first)
    return np.array(
        [empty if points is None else [gap if p is None else p for p in points] for points in rows],
        np.float32,
    )
