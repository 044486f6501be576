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

from engines.contracts.skeletons import load_skeleton
from engines.errors import ContractError
from pipeline.packet import FIELDS, Event, Instances, Packet

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

# What the keys of a record mean; `tools/schema_doc.py` makes the tables of the document from these.
FRAME_KEYS = {
    "stream": "the camera or file, as it was named in the run",
    "run": "id of the run that has captured it; absent in the files of that run itself, whose header has it",
    "seq": "number of the frame in its stream, from 0; a gap is a frame that was dropped",
    "pts_ns": "its time in ns, on the stream's own clock",
    "captured_ns": "ns since 1970-01-01 UTC at which it was captured, or entered the graph",
    "size": "width and height in px",
    "epoch": "grows where a stream was interrupted or moved to another worker: a track id means nothing "
    "across it; absent: 0",
    "moment_ns": "ns since 1970-01-01 UTC, the same for all cameras' frames of one moment, from `sync`",
    "instances": "what was found: `[]` if nothing was, absent if nothing has looked (no detector ran on this "
    "frame)",
}
INSTANCE_KEYS = {
    "track_id": "whole number, unique within the stream and epoch",
    "label": "class name",
    "detected": "false where the box is the tracker's prediction and not a detection",
    "score": "of the detection, 0..1, to 0.0001",
    "box": "x0, y0, x1, y1 in px of the frame, to 0.01; may reach beyond the frame",
    "skeleton": "what the keypoints are: a name in the header and in `configs/skeletons`",
    "keypoints": "a list in the skeleton's order of x, y (px, to 0.01) and the model's score (to 0.0001)",
    "keypoints_3d": "a list in the same order of x, y, z in m, to 0.0001",
}
EVENT_KEYS = {
    "stream": "whose it is",
    "run": "as in a frame",
    "event": "what happened",
    "at_ns": "when, ns since 1970-01-01 UTC",
    "resets": "true if frames before and after do not belong together: tracks begin anew; absent: false",
}
EVENT_KINDS = {
    "lost": "the source gives no more frames: `reason`",
    "back": "it does again: `away_s`",
    "changed": "frames are of another size or codec from here on: `before`, `after`",
    "jumped": "the stream's own clock did: `by_s`",
    "moved": "another worker has taken the stream over, in mid-stream",
}
LEAST, MOST = -(2**63), 2**63 - 1  # of an int64

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
    record = frame_record(packet)
    if packet.instances is not None:
        record["instances"] = _rows(packet.instances)
    return record


def frame_record(packet: Packet) -> dict[str, Any]:
    """What is known of the frame itself, without its instances."""
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
    """Something that happened to a stream between two of its frames; `details` stand beside the other keys.

    Raises:
        ValueError: a detail has the name of another key.
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
        return frame_of(frame, instances=None if rows is None else instances_of(rows))
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a record of {SCHEMA}: {type(error).__name__} {error}") from None


def frame_of(frame: Mapping[str, Any], **more: Any) -> Packet:
    """The packet of what `frame_record` gives; `more` are attributes of it that are known otherwise.

    Raises:
        ValueError: not a record, or a value of a wrong kind.
    """
    try:
        return Packet(
            stream=name_in(frame, "stream"),
            seq=whole(frame["seq"], "seq", 0),
            pts_ns=whole(frame["pts_ns"], "pts_ns"),
            captured_ns=whole(frame["captured_ns"], "captured_ns"),
            size=_size(frame["size"]),
            run=name_in(frame, "run", ""),
            epoch=whole(frame.get("epoch", 0), "epoch", 0),
            moment_ns=None if (at := frame.get("moment_ns")) is None else whole(at, "moment_ns"),
            **more,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record of {SCHEMA}: {type(error).__name__} {error}") from None


def _size(found: Any) -> tuple[int, int]:
    width, height = found
    return whole(width, "size", 0), whole(height, "size", 0)


def event_of(record: Mapping[str, Any]) -> Event:
    """The event of what `event_record` gives.

    Raises:
        ValueError: not an event, or a value of a wrong kind.
    """
    try:
        return Event(
            stream=name_in(record, "stream"),
            kind=name_in(record, "event"),
            at_ns=whole(record["at_ns"], "at_ns"),
            details={key: value for key, value in record.items() if key not in EVENT_KEYS},
            resets=record.get("resets", False) is True,
            run=name_in(record, "run", ""),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an event of {SCHEMA}: {type(error).__name__} {error}") from None


def whole(value: Any, key: str, least: int = LEAST) -> int:
    """The value of a key that holds a whole number of 64 bits, `least` or more.

    Raises:
        ValueError: it is none.
    """
    if type(value) is not int or not least <= value <= MOST:
        raise ValueError(f"{key} must be a whole number from {least}, found {value!r:.60}")
    return value


def name_in(record: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """The value of a key that holds a name; without a default it must be there and not empty.

    Raises:
        ValueError: it is none.
    """
    value = record[key] if default is None else record.get(key, default)
    if not isinstance(value, str) or not (value or default == ""):
        raise ValueError(f"{key} must be a name, found {value!r:.60}")
    return value


def instances_of(rows: list[Mapping[str, Any]]) -> Instances:
    """The instances of a record.

    Raises:
        ValueError: rows of several skeletons, or fields of a wrong shape.
    """
    if not rows:
        return Instances.empty()
    skeletons = {name_in(row, "skeleton") for row in rows if "skeleton" in row}
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
        if not all(label is None or isinstance(label, str) for label in found):
            raise ValueError(f"label must be a name, found {found!r:.60}")
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
