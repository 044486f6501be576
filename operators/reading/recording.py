"""A recording: the results of one stream as arrays, as a sink has kept them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from pipeline.packet import Event, Instances, Packet

# What a row lacks that others have.
GAPS: dict[str, Any] = {"labels": None, "track_ids": -1, "detected": True}


@dataclasses.dataclass(frozen=True)
class Recording:
    """F frames of a stream, and R rows: the instances of all frames, in their order.

    What a file does not hold is None; what only some rows lack is NaN, -1 (track id) or None (label).
    """

    stream: str
    header: dict[str, Any]  # as the file has it: schema, run, skeletons, units; empty where it has none
    seq: np.ndarray  # (F,) int64, frame number
    pts_ns: np.ndarray | None  # (F,) int64, time on the stream's own clock
    captured_ns: np.ndarray | None  # (F,) int64, UNIX time
    size: np.ndarray | None  # (F, 2) int32, width and height in px
    searched: np.ndarray  # (F,) bool, False where nothing has looked for instances
    frame: np.ndarray  # (R,) int64, which of the F frames a row belongs to, ascending
    skeleton: str | None = None
    boxes: np.ndarray | None = None  # (R, 4) float32, x0, y0, x1, y1 in px
    scores: np.ndarray | None = None  # (R,) float32
    labels: np.ndarray | None = None  # (R,) str
    track_ids: np.ndarray | None = None  # (R,) int64
    detected: np.ndarray | None = None  # (R,) bool, False where the box is a tracker's prediction
    keypoints: np.ndarray | None = None  # (R, K, 2) float32, px
    keypoint_scores: np.ndarray | None = None  # (R, K) float32
    keypoints_3d: np.ndarray | None = None  # (R, K, 3) float32, m
    epoch: np.ndarray | None = None  # (F,) int64, grows where tracks were lost for good
    moment_ns: np.ndarray | None = None  # (F,) int64, UNIX time of the frame's group (`sync`), -1 for none
    events: tuple[Event, ...] = ()  # what happened to the stream, in order

    def __len__(self) -> int:
        """The number of frames, F."""
        return len(self.seq)

    @property
    def fields(self) -> dict[str, np.ndarray]:
        """The arrays of rows that this recording has, by name."""
        found = {name: getattr(self, name) for name in FIELDS}
        return {name: array for name, array in found.items() if array is not None}

    def rows(self, index: np.ndarray) -> Recording:
        """The same frames with only these rows: a mask (R,), or ascending indices."""
        fields = {name: array[index] for name, array in self.fields.items()}
        return dataclasses.replace(self, frame=self.frame[index], **fields)

    def track(self, track_id: int) -> Recording:
        """The same frames with only the rows of one track; `one.pts_ns[one.frame]` are their times.

        Raises:
            ValueError: no such track.
        """
        ids = np.empty(0, np.int64) if self.track_ids is None else self.track_ids
        if track_id not in ids:
            known = ", ".join(map(str, np.unique(ids[ids >= 0]).tolist())) or "none"
            raise ValueError(f"{self.stream} has no track {track_id}; there are: {known}")
        return self.rows(ids == track_id)

    def packets(self) -> Iterator[Packet]:
        """The frames as packets without images; times and sizes that the file does not hold are 0."""
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
    """The recording of these packets and events, which are of one stream.

    Raises:
        ValueError: their instances have several skeletons, or keypoints of several sizes.
    """
    given = list(items)
    frames = [item for item in given if isinstance(item, Packet)]
    moments = np.array([-1 if p.moment_ns is None else p.moment_ns for p in frames], np.int64)
    found = [packet.instances if packet.instances is not None else Instances() for packet in frames]
    counts = np.array([len(instances) for instances in found], np.int64)
    skeletons = sorted({i.skeleton for i in found if i and i.skeleton is not None})
    if len(skeletons) > 1:
        raise ValueError(f"found keypoints of several skeletons, {', '.join(skeletons)}; expected one")
    seen = [instances for instances in found if instances]
    fields = {name: column for name in FIELDS if (column := _column(name, seen)) is not None}
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
        events=tuple(item for item in given if isinstance(item, Event)),
        **fields,
    )


def _column(name: str, seen: list[Instances]) -> np.ndarray | None:
    """A field of all instances; None if none has it."""
    known = next((i[name] for i in seen if name in i), None)
    if known is None:
        return None
    column = np.full((sum(map(len, seen)), *known.shape[1:]), GAPS.get(name, np.nan), known.dtype)
    start = 0
    for instances in seen:
        if name in instances:
            if instances[name].shape[1:] != known.shape[1:]:
                raise ValueError(
                    f"found {name} of several shapes, {known.shape[1:]} and {instances[name].shape[1:]}; "
                    "expected one"
                )
            column[start : start + len(instances)] = instances[name]
        start += len(instances)
    return column
