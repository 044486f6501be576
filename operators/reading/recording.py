"""A recording: the results of one stream as arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from operators.records.schema import GAPS
from pipeline.packet import Event, Instances, Packet


@dataclasses.dataclass(frozen=True)
class Recording:
    """F frames of a stream, and R rows: the instances of all frames, in the order of the frames.

    An array that the file does not hold is None. A value that only some rows lack is NaN, -1 (track id), None
    (label) or True (detected).
    """

    stream: str
    header: dict[str, Any]  # of the file: schema, run, stream, skeletons, units; empty for COCO
    seq: np.ndarray  # (F,) int64, frame number
    pts_ns: np.ndarray | None  # (F,) int64, time on the stream's own clock
    captured_ns: np.ndarray | None  # (F,) int64, UNIX time
    size: np.ndarray | None  # (F, 2) int32, width and height in px
    searched: np.ndarray  # (F,) bool, False if no detector ran on the frame
    frame: np.ndarray  # (R,) int64, index of the row's frame among the F frames, ascending
    skeleton: str | None = None
    boxes: np.ndarray | None = None  # (R, 4) float32, x0, y0, x1, y1 in px
    scores: np.ndarray | None = None  # (R,) float32
    labels: np.ndarray | None = None  # (R,) str
    track_ids: np.ndarray | None = None  # (R,) int64
    detected: np.ndarray | None = None  # (R,) bool, False if the box is the tracker's prediction
    keypoints: np.ndarray | None = None  # (R, K, 2) float32, px
    keypoint_scores: np.ndarray | None = None  # (R, K) float32
    keypoints_3d: np.ndarray | None = None  # (R, K, 3) float32, m
    epoch: np.ndarray | None = None  # (F,) int64, grows where tracks begin anew
    moment_ns: np.ndarray | None = None  # (F,) int64, UNIX time of the frame's group (`sync`), -1 for none
    events: tuple[Event, ...] = ()  # of the stream, in order

    def __len__(self) -> int:
        """The number of frames, F."""
        return len(self.seq)

    @property
    def fields(self) -> dict[str, np.ndarray]:
        """The arrays with a value for each row (R, …) that this recording has, by name."""
        arrays = {name: getattr(self, name) for name in FIELDS}
        return {name: array for name, array in arrays.items() if array is not None}

    def rows(self, index: np.ndarray) -> Recording:
        """All frames with only some rows; `index` is a mask (R,), or ascending indices."""
        fields = {name: array[index] for name, array in self.fields.items()}
        return dataclasses.replace(self, frame=self.frame[index], **fields)

    def track(self, track_id: int) -> Recording:
        """All frames with only the rows of one track; the times of its rows are `one.pts_ns[one.frame]`.

        Raises:
            ValueError: there is no such track.
        """
        ids = np.empty(0, np.int64) if self.track_ids is None else self.track_ids
        if track_id not in ids:
            known = ", ".join(map(str, np.unique(ids[ids >= 0]).tolist())) or "none"
            raise ValueError(f"{self.stream} has no track {track_id}; there are: {known}")
        return self.rows(ids == track_id)

    def packets(self) -> Iterator[Packet]:
        """The frames as packets without pictures; times and sizes that the file does not hold are 0."""
        ends = np.searchsorted(self.frame, np.arange(len(self)), side="right").tolist()
        starts = [0, *ends[:-1]]
        fields = self.fields
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            rows = {name: array[start:end] for name, array in fields.items()}
            instances = Instances(skeleton=self.skeleton, **rows) if rows else Instances.empty()
            yield Packet(
                stream=self.stream,
                seq=int(self.seq[i]),
                pts_ns=0 if self.pts_ns is None else int(self.pts_ns[i]),
                captured_ns=0 if self.captured_ns is None else int(self.captured_ns[i]),
                size=(0, 0) if self.size is None else (int(self.size[i, 0]), int(self.size[i, 1])),
                instances=instances if self.searched[i] else None,
                epoch=0 if self.epoch is None else int(self.epoch[i]),
                moment_ns=None if self.moment_ns is None or self.moment_ns[i] < 0 else int(self.moment_ns[i]),
            )


FIELDS = (
    "boxes",
    "scores",
    "labels",
    "track_ids",
    "detected",
    "keypoints",
    "keypoint_scores",
    "keypoints_3d",
)


def gather(stream: str, header: dict[str, Any], items: Iterable[Packet | Event]) -> Recording:
    """The recording of packets and events of one stream.

    Raises:
        ValueError: the instances have several skeletons, or different numbers of keypoints.
    """
    items = list(items)
    frames = [item for item in items if isinstance(item, Packet)]
    moments = np.array([-1 if p.moment_ns is None else p.moment_ns for p in frames], np.int64)
    by_frame = [packet.instances if packet.instances is not None else Instances() for packet in frames]
    counts = np.array([len(instances) for instances in by_frame], np.int64)
    skeletons = sorted({i.skeleton for i in by_frame if i and i.skeleton is not None})
    if len(skeletons) > 1:
        raise ValueError(f"found keypoints of several skeletons, {', '.join(skeletons)}; expected one")
    not_empty = [instances for instances in by_frame if instances]
    fields = {name: column for name in FIELDS if (column := _column(name, not_empty)) is not None}
    return Recording(
        stream=stream,
        header=header,
        seq=np.array([packet.seq for packet in frames], np.int64),
        pts_ns=np.array([packet.pts_ns for packet in frames], np.int64),
        captured_ns=np.array([packet.captured_ns for packet in frames], np.int64),
        size=np.array([packet.size for packet in frames], np.int32).reshape(-1, 2),
        searched=np.array([packet.instances is not None for packet in frames], np.bool_),
        frame=np.repeat(np.arange(len(frames)), counts),
        skeleton=skeletons[0] if skeletons else None,
        epoch=np.array([packet.epoch for packet in frames], np.int64),
        moment_ns=moments if (moments >= 0).any() else None,
        events=tuple(item for item in items if isinstance(item, Event)),
        **fields,
    )


def _column(name: str, frames: list[Instances]) -> np.ndarray | None:
    """A field of the instances of all frames as one array (R, …); None if no frame has it."""
    first = next((instances[name] for instances in frames if name in instances), None)
    if first is None:
        return None
    column = np.full((sum(map(len, frames)), *first.shape[1:]), GAPS.get(name, np.nan), first.dtype)
    start = 0
    for instances in frames:
        if name in instances:
            if instances[name].shape[1:] != first.shape[1:]:
                raise ValueError(
                    f"found {name} of several shapes, {first.shape[1:]} and {instances[name].shape[1:]}; "
                    "expected one"
                )
            column[start : start + len(instances)] = instances[name]
        start += len(instances)
    return column
