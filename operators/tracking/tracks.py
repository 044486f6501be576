"""The tables that `track` works on: the tracks of many streams, and the detections of one packet of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from operators.tracking import kalman
from pipeline.packet import Instances, Packet


class Tracks(NamedTuple):
    """T tracks, one per row."""

    ids: np.ndarray  # (T,) int64
    labels: np.ndarray  # (T,) object
    scores: np.ndarray  # (T,) float32, of the last matched detection
    seen_ns: np.ndarray  # (T,) int64, time of the last matched detection
    lost: np.ndarray  # (T,) bool: not matched when detection last ran
    motion: np.ndarray  # (T, 5, 4) float64, see `operators.tracking.kalman`

    @classmethod
    def empty(cls) -> Tracks:
        """No tracks."""
        dtypes = (np.int64, np.object_, np.float32, np.int64, np.bool_)
        return cls._make([*(np.empty(0, dtype) for dtype in dtypes), np.empty((0, 5, 4))])

    @classmethod
    def concatenate(cls, parts: Sequence[Tracks]) -> Tracks:
        """All rows of all parts, in order."""
        return cls._make(map(_concatenated, zip(*parts, strict=True)))

    def rows(self, index: np.ndarray | slice) -> Tracks:
        """The rows that `index` selects."""
        return Tracks._make(field[index] for field in self)


class Detections(NamedTuple):
    """The N detections of S packets, each of another stream; in the order of the packets."""

    streams: list[str]  # (S,)
    instances: list[Instances]  # (S,)
    counts: list[int]  # (S,) detections of each packet
    time_ns: np.ndarray  # (S,) int64, on the streams' clocks
    stream_index: np.ndarray  # (N,) int64, index into `streams`
    boxes: np.ndarray  # (N, 4) float32 x0 y0 x1 y1 px
    scores: np.ndarray  # (N,) float32
    labels: np.ndarray  # (N,) object; "" where detections have no labels

    @classmethod
    def of(cls, packets: Sequence[Packet]) -> Detections:
        """The detections of packets on which detection ran; at least one packet."""
        instances = [packet.instances for packet in packets if packet.instances is not None]
        counts = [len(one) for one in instances]
        labels = [one.labels if "labels" in one else np.full(len(one), "", np.object_) for one in instances]
        return cls(
            [packet.stream for packet in packets],
            instances,
            counts,
            np.array([packet.pts_ns for packet in packets]),
            np.arange(len(instances)).repeat(counts),
            _concatenated([one.boxes for one in instances]),
            _concatenated([one.scores for one in instances]),
            _concatenated(labels),
        )


@dataclasses.dataclass
class StreamState:
    """What `track` remembers of one stream."""

    size: tuple[int, int]  # width and height of its frames, px
    last_ns: int | None = None  # time of its last packet
    updated_ns: int | None = None  # time of the last packet on which detection ran; `tracks` are as of then
    tracks: Tracks = dataclasses.field(default_factory=Tracks.empty)
    has_labels: bool = False  # its detections have labels

    def continues_at(self, time_ns: int, gap_max_ns: int) -> bool:
        """Whether a packet of this time continues the stream: not earlier, and after no longer gap."""
        return self.last_ns is None or 0 <= time_ns - self.last_ns <= gap_max_ns

    def predicted(self, packet: Packet) -> Instances:
        """The tracks that the last detection matched, moved to the time of `packet`, if in the frame."""
        assert self.updated_ns is not None
        tracks = self.tracks.rows(~self.tracks.lost)
        elapsed_s = np.full(len(tracks.ids), (packet.pts_ns - self.updated_ns) / 1e9)
        boxes = kalman.boxes_of(kalman.predict(tracks.motion, elapsed_s)).astype(np.float32)
        inside = np.all((boxes[:, :2] < packet.size) & (boxes[:, 2:] > 0), axis=1)
        tracks, boxes = tracks.rows(inside), boxes[inside]
        labels: dict[str, Any] = {"labels": tracks.labels} if self.has_labels else {}
        return Instances(
            boxes=boxes,
            scores=tracks.scores,
            **labels,
            track_ids=tracks.ids,
            detected=np.zeros(len(boxes), np.bool_),
        )


def _concatenated(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
