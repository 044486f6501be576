"""Write COCO keypoint results for each stream: a JSON array for pycocotools' `loadRes` and similar tools.

https://cocodataset.org/#format-results
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from engines.contracts.skeletons import load_skeleton
from engines.errors import ContractError
from operators.files.sink_files import (
    Folder,
    OpenFiles,
    StreamFiles,
    close_all,
    create_file,
    sink_error,
    write_all,
)
from pipeline.operator import Operator, RunInfo
from pipeline.packet import Instances, Packet

# COCO's category ids; other labels get 0, which COCO does not use.
CATEGORIES = {
    "person": 1, "bird": 16, "cat": 17, "dog": 18, "horse": 19, "sheep": 20, "cow": 21, "elephant": 22,
    "bear": 23, "zebra": 24, "giraffe": 25,
}  # fmt: skip
START, END = b"[", b"\n]\n"


class CocoSink(Operator):
    """Write `<stream>.coco.json`, an entry for each instance; packets pass on unchanged.

    image_id is `seq`. category_id is COCO's (1: person, also for instances without labels whose skeleton is a
    person's). keypoints are mapped to coco17 if the skeleton has its points, else all are written: x, y and
    score of each, and 0, 0, 0 for a missing one, as COCO defines it. score is the detection's, else the mean
    over the keypoints. bbox [x, y, width, height], track_id and label are written if known. Frames without
    instances, events, times and 3D are not written. The file is valid JSON after every frame.
    """

    sink = True
    per_stream = True

    def __init__(self, dir: Folder):
        self.dir = dir
        self.files = OpenFiles(self._make)

    def open(self, run: RunInfo) -> None:
        """Make the folder.

        Raises:
            SinkError: the folder cannot be made or written to.
        """
        self.paths = StreamFiles(self.dir, "coco.json", live=run.live)

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Write the instances of each packet.

        Raises:
            SinkError: the file cannot be written.
        """
        for packet in packets:
            self.files[packet.stream].append(entries(packet))
        return packets

    def _make(self, stream: str) -> _JsonArray:
        return _JsonArray(self.paths.next(stream))

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """Close the stream's file; for a stream without instances it holds an empty array."""
        self.files.end(stream)
        return ()

    def close(self) -> None:
        """Close the files of streams that have not ended."""
        close_all(self.files)


def entries(packet: Packet) -> list[dict[str, Any]]:
    """The entries of one frame, in the order of its instances."""
    instances = packet.instances
    if not instances:
        return []
    rows: list[dict[str, Any]] = [
        {"image_id": packet.seq, "category_id": category} for category in _categories(instances)
    ]
    if "boxes" in instances:
        low, high = instances.boxes[:, :2], instances.boxes[:, 2:]  # (N, 2)
        boxes = np.round(np.concatenate([low, high - low], axis=1), 2)  # (N, 4)
        _add(rows, "bbox", boxes)
    if "keypoints" in instances:
        _add(rows, "keypoints", _keypoints(instances))
    scores = instances.get("scores")
    if scores is None and "keypoint_scores" in instances and instances.keypoint_scores.size:
        scores = np.nan_to_num(instances.keypoint_scores).mean(axis=1)
    _add(rows, "score", np.ones(len(rows), np.float32) if scores is None else np.round(scores, 4))
    if "track_ids" in instances:
        for row, track_id in zip(rows, instances.track_ids.tolist(), strict=True):
            if track_id >= 0:
                row["track_id"] = track_id
    if "labels" in instances:
        _add(rows, "label", instances.labels)
    return rows


def _categories(instances: Instances) -> list[int]:
    if "labels" in instances:
        return [CATEGORIES.get(label, 0) for label in instances.labels]
    return [CATEGORIES["person"] if _maps_onto_coco(instances) else 0] * len(instances)


def _maps_onto_coco(instances: Instances) -> bool:
    try:
        return instances.skeleton is not None and load_skeleton(instances.skeleton).maps_onto("coco17")
    except ContractError:  # not in configs/skeletons
        return False


def _keypoints(instances: Instances) -> np.ndarray:
    """(N, 3 K): x, y, score of each keypoint; 0, 0, 0 if one of them is NaN."""
    points = instances.keypoints
    scores = instances.get("keypoint_scores")
    if scores is None:
        scores = np.ones(points.shape[:2], np.float32)
    if _maps_onto_coco(instances) and points.shape[1]:
        assert instances.skeleton is not None  # _maps_onto_coco has checked it
        index = load_skeleton(instances.skeleton).indices_for("coco17")
        points, scores = points[:, index], scores[:, index]
    triples = np.concatenate([np.round(points, 2), np.round(scores, 4)[..., None]], axis=2)
    triples[~np.isfinite(triples).all(axis=2)] = 0
    return np.ascontiguousarray(triples.reshape(len(triples), -1))


def _add(rows: list[dict[str, Any]], name: str, values: np.ndarray) -> None:
    for row, value in zip(rows, values, strict=True):
        row[name] = value


class _JsonArray:
    """A JSON array in a file: `append` overwrites the closing bracket with the new items and another one."""

    def __init__(self, path: Path):
        self.path = path
        self.file: int | None = None
        self.size = self.frames = self.count = 0  # size: without the closing bracket

    def append(self, items: list[dict[str, Any]]) -> None:
        lines = b"".join(
            (b"," if self.count + i else b"") + b"\n" + orjson.dumps(item, option=orjson.OPT_SERIALIZE_NUMPY)
            for i, item in enumerate(items)
        )
        self._open()
        if lines:
            self._write(lines)
        self.frames += 1
        self.count += len(items)

    def _open(self) -> None:
        if self.size == 0:
            self._write(START)

    def _write(self, data: bytes) -> None:
        try:
            if self.file is None:
                self.file = create_file(self.path)
            write_all(self.file, data + END, self.size)
        except OSError as error:
            self._restore()
            raise sink_error(self.path, error, self.frames) from None
        self.size += len(data)

    def _restore(self) -> None:
        """Write the closing bracket again where it was: these bytes exist, so this works on a full disk."""
        if self.file is not None and self.size:
            with contextlib.suppress(OSError):  # report the first error
                write_all(self.file, END, self.size)
                os.ftruncate(self.file, self.size + len(END))

    def close(self) -> None:
        self._open()
        if self.file is not None:
            os.close(self.file)
            self.file = None
