"""Smooth keypoints over time with the One-Euro filter, each track and each keypoint for itself.

Little motion is smoothed much (no jitter at rest), fast motion little (no lag). Casiez, Roussel and Vogel,
"1€ Filter", CHI 2012. The defaults are those of MediaPipe's pose graphs, for image and for world landmarks.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from pipeline.errors import OptionError
from pipeline.operator import Operator, Ports
from pipeline.packet import Instances, Packet

Cutoff = Annotated[float, Field(gt=0, description="Hz; lower is smoother at rest")]
Beta = Annotated[float, Field(ge=0, description="Hz for each unit of speed; higher follows motion closer")]
Seconds = Annotated[float, Field(gt=0, description="a keypoint or track unseen for longer starts anew")]


class OneEuro:
    """The One-Euro filter on an array of signals that share a clock; each element has its own history."""

    def __init__(
        self, min_cutoff: float, beta: float, derivative_cutoff: float = 1.0, restart_s: float = math.inf
    ):
        """Cut-offs are in Hz; an element that was NaN for more than `restart_s` starts anew."""
        self.min_cutoff, self.beta, self.derivative_cutoff = min_cutoff, beta, derivative_cutoff
        self.restart_s = restart_s
        self.raw: np.ndarray
        self.filtered: np.ndarray
        self.derivative: np.ndarray
        self.seen_ns: np.ndarray
        self._start((0,))

    def __call__(
        self, values: np.ndarray, time_ns: int | np.ndarray, scale: float | np.ndarray = 1.0
    ) -> np.ndarray:
        """Filter one sample of every signal.

        Args:
            values: any shape, the same at each call; NaN is given back as NaN and leaves the state alone.
            time_ns: of the sample; where it does not advance, the value passes unchanged.
            scale: makes the speed independent of units, 1 / object size in px; broadcasts to `values`.

        Raises:
            ValueError: the shape differs from that of the call before.
        """
        if not self.raw.size:
            self._start(values.shape)
        if values.shape != self.raw.shape:
            raise ValueError(f"filtered {self.raw.shape} before, found {values.shape}; use a filter for each")
        seen = np.isfinite(values)
        elapsed_s = (time_ns - self.seen_ns) / 1e9
        first = seen & (np.isnan(self.raw) | (elapsed_s > self.restart_s))
        later = seen & ~first & (elapsed_s > 0)
        dt_s = np.where(later, elapsed_s, 1.0)

        # The speed is taken from the last raw value, as in MediaPipe; the paper takes the last filtered one.
        speed = np.where(later, values - self.raw, 0.0) * scale / dt_s
        derivative = self.derivative + _alpha(self.derivative_cutoff, dt_s) * (speed - self.derivative)
        cutoff = self.min_cutoff + self.beta * np.abs(derivative)
        filtered = self.filtered + _alpha(cutoff, dt_s) * (values - self.filtered)

        self.raw = np.where(first | later, values, self.raw)
        self.filtered = np.where(later, filtered, np.where(first, values, self.filtered))
        self.derivative = np.where(later, derivative, np.where(first, 0.0, self.derivative))
        self.seen_ns = np.where(first | later, time_ns, self.seen_ns)
        return np.where(later, filtered, values).astype(values.dtype, copy=False)

    def take(self, rows: np.ndarray) -> None:
        """Keep these rows of the first axis, in this order; -1 makes a row without history."""
        if self.raw.size:
            before = (self.raw, self.filtered, self.derivative, self.seen_ns)
            old = rows >= 0
            self._start((len(rows), *self.raw.shape[1:]))
            for after, kept in zip(
                (self.raw, self.filtered, self.derivative, self.seen_ns), before, strict=True
            ):
                after[old] = kept[rows[old]]

    def _start(self, shape: tuple[int, ...]) -> None:
        self.raw, self.filtered = np.full(shape, np.nan), np.full(shape, np.nan)
        self.derivative, self.seen_ns = np.zeros(shape), np.zeros(shape, np.int64)


def _alpha(cutoff_hz: float | np.ndarray, dt_s: np.ndarray) -> np.ndarray:
    """The weight of a new sample in a first-order low-pass filter."""
    return 1.0 / (1.0 + 1.0 / (2 * np.pi * cutoff_hz * dt_s))


class _Tracks:
    """The filters of all tracks of one stream and one field: row i belongs to track ids[i]."""

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
        samples = np.full((len(self.ids), *self.shape), np.nan, values.dtype)  # absent tracks stay NaN
        samples[rows] = values
        scales = np.ones((len(self.ids), 1, 1))
        scales[rows] = scale
        return self.one_euro(samples, time_ns, scales)[rows]


class Smooth(Operator):
    """Smooth the keypoints of every track; scores, and rows without a track id, stay as they are.

    needs     track_ids     int64   (N,)
              keypoints     float32 (N, K, 2)  px of the frame; their extent is the size of the object
              keypoints_3d  float32 (N, K, 3)  m, where they are to be smoothed
    provides  the same fields, smoothed

    2D is off by default: downstream crops and drawings want the keypoints on the image as it is. Speed counts
    in object sizes a second in 2D and in m/s in 3D. A clock that jumps backwards, another picture size and
    events that reset start the stream anew.
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
        self.last: dict[str, tuple[int, tuple[int, int]]] = {}  # stream: time and size of its last packet
        self.tracks: dict[str, dict[str, _Tracks]] = {}  # stream, field

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """3D keypoints are needed only where they are to be smoothed.

        Raises:
            OptionError: neither 2D nor 3D keypoints are to be smoothed.
        """
        flat, deep = options.get("keypoints", False), options.get("keypoints_3d", True)
        if not flat and not deep:
            raise OptionError(
                "keypoints_3d", "nothing to smooth; set keypoints or keypoints_3d to true, or remove the node"
            )
        return Ports(frozenset(cls.needs) | ({"keypoints_3d"} if deep else set()), frozenset())

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Smooth packet by packet, since each depends on the one before it."""
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
            tracks = self._tracks(packet.stream, field, values.shape[1:])
            values[rows] = tracks(ids, values[rows], packet.pts_ns, scale)
        return packet.replace(instances=instances.replace(**smoothed)) if smoothed else packet

    def _tracks(self, stream: str, field: str, shape: tuple[int, ...]) -> _Tracks:
        fields = self.tracks.setdefault(stream, {})
        if field not in fields or fields[field].shape != shape:  # another skeleton is another signal
            min_cutoff, beta = self.settings[field]
            fields[field] = _Tracks(OneEuro(min_cutoff, beta, restart_s=self.forget_s), shape)
        return fields[field]

    def reset(self, stream: str) -> None:
        """Forget all tracks of the stream."""
        self.tracks.pop(stream, None)
        self.last.pop(stream, None)

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """Nothing is held back, so nothing is left to give."""
        self.reset(stream)
        return ()


def _object_size(instances: Instances, rows: np.ndarray) -> np.ndarray:
    """The mean side of the box around each row's keypoints, at least 1 px: (N, 1, 1)."""
    points = instances["keypoints"][rows]  # (N, K, 2)
    low = np.where(np.isfinite(points), points, np.inf).min(axis=1, initial=np.inf)
    high = np.where(np.isfinite(points), points, -np.inf).max(axis=1, initial=-np.inf)
    return np.maximum((high - low).mean(axis=1), 1.0)[:, None, None]  # a row of NaN gives 1, and is NaN again
