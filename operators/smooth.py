"""Smooth keypoints over time with the One-Euro filter; every keypoint of every track has its own filter.

The defaults are those of MediaPipe's pose graphs, for image and for world landmarks.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from operators.tracking.one_euro import OneEuro
from pipeline.errors import OptionError
from pipeline.operator import Operator, Ports
from pipeline.packet import Instances, Packet

Cutoff = Annotated[float, Field(gt=0, description="Hz; lower smooths more at rest")]
Beta = Annotated[
    float, Field(ge=0, description="Hz per unit of speed; higher follows fast motion more closely")
]
Seconds = Annotated[float, Field(gt=0, description="a keypoint or track unseen for longer starts anew")]


class _TrackFilters:
    """The filters of all tracks of one stream, for one field: row i belongs to track `ids[i]`."""

    def __init__(self, one_euro: OneEuro, shape: tuple[int, ...]):
        self.one_euro, self.shape = one_euro, shape
        self.ids = self.seen_ns = np.empty(0, np.int64)

    def __call__(
        self, ids: np.ndarray, values: np.ndarray, time_ns: int, scale: float | np.ndarray
    ) -> np.ndarray:
        """Filter `values` (N, K, D) of the tracks `ids` (N,)."""
        kept = np.flatnonzero(time_ns - self.seen_ns <= self.one_euro.restart_s * 1e9)
        new = np.setdiff1d(ids, self.ids[kept])
        if len(new) or len(kept) < len(self.ids):
            self.one_euro.take(np.concatenate([kept, np.full(len(new), -1)]))
            self.ids = np.concatenate([self.ids[kept], new])
            self.seen_ns = np.concatenate([self.seen_ns[kept], np.full(len(new), time_ns)])
        order = np.argsort(self.ids)
        rows = order[np.searchsorted(self.ids, ids, sorter=order)]  # (N,)
        self.seen_ns[rows] = time_ns
        samples = np.full((len(self.ids), *self.shape), np.nan, values.dtype)  # NaN: absent
        samples[rows] = values
        scales = np.ones((len(self.ids), 1, 1))
        scales[rows] = scale
        return self.one_euro(samples, time_ns, scales)[rows]


class Smooth(Operator):
    """Smooth the keypoints of every track. Scores and rows without a track id are passed on unchanged.

    needs     track_ids     int64   (N,)
              keypoints     float32 (N, K, 2)  px of the frame
              keypoints_3d  float32 (N, K, 3)  m; only if they are smoothed
    provides  the same fields, smoothed

    2D smoothing is off by default: crops and drawings further down need keypoints that match the image. Speed
    is measured in object sizes per second in 2D (the size is the extent of the keypoints) and in m/s in 3D.
    All filters of a stream start anew when its clock goes backwards, when the picture size changes, and at
    events that reset.
    """

    needs = ("keypoints", "track_ids")
    per_stream = True

    def __init__(
        self,
        keypoints: bool = False,
        keypoints_3d: bool = True,
        min_cutoff_hz: Cutoff = 0.05,
        beta: Beta = 80.0,
        min_cutoff_3d_hz: Cutoff = 0.1,
        beta_3d: Beta = 40.0,
        forget_s: Seconds = 2.0,
    ):
        self.settings = {"keypoints": (min_cutoff_hz, beta)} if keypoints else {}
        if keypoints_3d:
            self.settings["keypoints_3d"] = (min_cutoff_3d_hz, beta_3d)
        self.forget_s = forget_s
        self.last: dict[str, tuple[int, tuple[int, int]]] = {}  # by stream: time and size of the last packet
        self.filters: dict[str, dict[str, _TrackFilters]] = {}  # by stream and field

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """Need 3D keypoints only if they are smoothed.

        Raises:
            OptionError: neither 2D nor 3D keypoints are smoothed.
        """
        smooth_2d, smooth_3d = options.get("keypoints", False), options.get("keypoints_3d", True)
        if not smooth_2d and not smooth_3d:
            raise OptionError(
                "keypoints_3d", "nothing to smooth; set keypoints or keypoints_3d to true, or remove the node"
            )
        return Ports(frozenset(cls.needs) | ({"keypoints_3d"} if smooth_3d else set()), frozenset())

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Smooth one packet after the other, since each depends on the previous one of its stream."""
        return [self._smooth(packet) for packet in packets]

    def _smooth(self, packet: Packet) -> Packet:
        last_ns, size = self.last.get(packet.stream, (packet.pts_ns, packet.size))
        if packet.pts_ns < last_ns or packet.size != size:
            self.reset(packet.stream)
        self.last[packet.stream] = packet.pts_ns, packet.size
        instances = packet.instances
        if not instances or "track_ids" not in instances or "keypoints" not in instances:
            return packet
        rows = np.flatnonzero(instances["track_ids"] >= 0)
        ids = instances["track_ids"][rows]
        smoothed: dict[str, Any] = {}
        for field in self.settings.keys() & instances.fields.keys():
            scale = 1.0 / _object_size(instances, rows) if field == "keypoints" else 1.0
            smoothed[field] = values = instances[field].copy()
            filters = self._filters(packet.stream, field, values.shape[1:])
            values[rows] = filters(ids, values[rows], packet.pts_ns, scale)
        return packet.replace(instances=instances.replace(**smoothed)) if smoothed else packet

    def _filters(self, stream: str, field: str, shape: tuple[int, ...]) -> _TrackFilters:
        fields = self.filters.setdefault(stream, {})
        if field not in fields or fields[field].shape != shape:  # the skeleton has changed: start anew
            min_cutoff, beta = self.settings[field]
            fields[field] = _TrackFilters(OneEuro(min_cutoff, beta, restart_s=self.forget_s), shape)
        return fields[field]

    def reset(self, stream: str) -> None:
        """Forget the filters of all tracks of the stream."""
        self.filters.pop(stream, None)
        self.last.pop(stream, None)

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """Forget the stream; no packets are held back."""
        self.reset(stream)
        return ()


def _object_size(instances: Instances, rows: np.ndarray) -> np.ndarray:
    """(N, 1, 1): the mean of width and height of the box around each row's keypoints, at least 1 px."""
    points = instances["keypoints"][rows]  # (N, K, 2)
    low = np.where(np.isfinite(points), points, np.inf).min(axis=1, initial=np.inf)
    high = np.where(np.isfinite(points), points, -np.inf).max(axis=1, initial=-np.inf)
    return np.maximum((high - low).mean(axis=1), 1.0)[:, None, None]  # 1 for rows that are all NaN
