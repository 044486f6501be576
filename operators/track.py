"""Give detections ids that stay the same over time: ByteTrack with real time in place of frame numbers.

Looked at first: `trackers` (brings opencv-python, counts frames), `norfair` and `motpy` (an object a track,
frames, the unmaintained filterpy); `supervision` has dropped its own. None takes time in seconds or coasts.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022
(arXiv:2110.06864): match the sure detections first, then use the unsure ones only to keep tracks going.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from scipy.optimize import linear_sum_assignment

from engines.boxes import iou
from pipeline.operator import Operator
from pipeline.packet import Instances, Packet

Score = Annotated[float, Field(ge=0, le=1)]
MatchIou = Annotated[float, Field(gt=0, lt=1, description="a box that overlaps less is another animal")]
Seconds = Annotated[float, Field(gt=0, description="a track that no detection has met for longer ends")]

LOW_MATCH_IOU = 0.5  # of unsure detections; the paper's, section 4.1
# Noise of the motion model, in units of the object's size (the mean of its width and height).
BOX_STD = 0.05  # of a detected box, as in DeepSORT
SPEED_STD = 2.0  # 1/s, of an object just found
ACCELERATION = 1.0  # 1/s² · √s, white-noise acceleration

# A row a track. The noise of x, y, width and height is independent, so the 8x8 Kalman filter of the paper
# falls apart into four of position and velocity, whose covariance is (var, cov; cov, speed_var).
TRACK = np.dtype(
    [
        ("id", np.int64),
        ("label", np.object_),
        ("score", np.float32),
        ("seen_ns", np.int64),  # when a detection last met it
        ("lost", np.bool_),  # the last detection run has missed it
        ("at", np.float64, 4),  # centre x, centre y, width, height in px
        ("speed", np.float64, 4),  # of the same, px/s
        ("var", np.float64, 4),
        ("cov", np.float64, 4),
        ("speed_var", np.float64, 4),
    ]
)


@dataclasses.dataclass
class _Stream:
    """What is remembered of one stream."""

    size: tuple[int, int]  # of its pictures
    last_ns: int | None = None  # of its last packet
    updated_ns: int | None = None  # of the last packet on which detection ran: `tracks` are as of then
    tracks: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, TRACK))
    labelled: bool = False  # whether its detections have labels

    def goes_on(self, now_ns: int, lost_ns: int) -> bool:
        """Whether a packet of this time continues what is remembered."""
        return self.last_ns is None or 0 <= now_ns - self.last_ns <= lost_ns


class Track(Operator):
    """Follow every instance through its stream.

    needs     boxes      float32 (N, 4)  x0, y0, x1, y1 in px of the frame
              scores     float32 (N,)
              labels     str     (N,)    if there: a track never changes its label
    provides  track_ids  int64   (N,)    from 1, never used twice for a stream in a run
              detected   bool    (N,)    False where the box is a prediction

    Where detection ran, the rows are the detections that belong to a track, in their order and with all their
    fields; unsure ones that fit no track are left out (and counted). On frames that detection skipped
    (`every: n`) the rows are the predicted boxes of the tracks that the last detection met, with their last
    score and label. Tracks begin at once, as waiting for a second sighting would cost n frames; `new_score`
    guards against ghosts. A track ends `lost_s` seconds after it was last seen, and all do when the clock
    jumps backwards or ahead by more than that, when the picture's size changes, and at events that reset.
    """

    needs = ("boxes", "scores")
    provides = ("track_ids", "detected")
    per_stream = True

    def __init__(
        self,
        high_score: Annotated[Score, Field(description="from here on a detection is sure")] = 0.5,
        low_score: Annotated[Score, Field(description="below this a detection is ignored")] = 0.1,
        new_score: Annotated[Score, Field(description="a sure detection begins a track from here on")] = 0.5,
        match_iou: MatchIou = 0.2,
        lost_s: Seconds = 2.0,
    ):
        self.high_score, self.low_score, self.new_score = high_score, low_score, new_score
        self.match_iou, self.lost_ns = match_iou, round(lost_s * 1e9)
        self.streams: dict[str, _Stream] = {}
        self.ids_given: Counter[str] = Counter()  # by stream, also of those that have ended

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Track packet by packet, since each depends on the one before it."""
        return [self._track(packet) for packet in packets]

    def _track(self, packet: Packet) -> Packet:
        now_ns = packet.pts_ns
        state = self.streams.get(packet.stream)
        if state is None or state.size != packet.size or not state.goes_on(now_ns, self.lost_ns):
            state = self.streams[packet.stream] = _Stream(packet.size)
        state.last_ns = now_ns
        if packet.instances is not None:
            return packet.replace(instances=self._update(packet.stream, state, now_ns, packet.instances))
        if state.updated_ns is None:  # nothing has looked yet, which differs from having found none
            return packet
        return packet.replace(instances=_coast(state, (now_ns - state.updated_ns) / 1e9, packet.size))

    def _update(self, stream: str, state: _Stream, now_ns: int, found: Instances) -> Instances:
        elapsed_s = 0.0 if state.updated_ns is None else (now_ns - state.updated_ns) / 1e9
        alive = ~state.tracks["lost"] | (now_ns - state.tracks["seen_ns"] <= self.lost_ns)
        tracks = predict(state.tracks[alive], elapsed_s)
        state.labelled = "labels" in found
        labels = found.labels if state.labelled else np.full(len(found), "", np.object_)

        row_of = self._associate(tracks, found.boxes, found.scores, labels)  # (N,) row in tracks, -1 for none
        met = row_of >= 0
        rows = row_of[met]
        correct(tracks, rows, to_centres(found.boxes[met]))
        tracks["lost"] = True
        tracks["lost"][rows], tracks["seen_ns"][rows], tracks["score"][rows] = (
            False,
            now_ns,
            found.scores[met],
        )
        tracks["speed"][tracks["lost"], 2:] = 0  # what is out of sight should not grow or shrink

        new = np.flatnonzero(~met & (found.scores >= max(self.high_score, self.new_score)))
        row_of[new] = len(tracks) + np.arange(len(new))
        if len(new):
            born = begin(to_centres(found.boxes[new]), found.scores[new], labels[new], now_ns)
            born["id"] = self.ids_given[stream] + 1 + np.arange(len(new))
            self.ids_given[stream] += len(new)
            tracks = np.concatenate([tracks, born])
        state.tracks, state.updated_ns = tracks, now_ns

        tracked = np.flatnonzero(row_of >= 0)
        if len(tracked) < len(found):
            self.count("detections without a track", len(found) - len(tracked))
        ids = tracks["id"][row_of[tracked]]
        return found.rows(tracked).replace(track_ids=ids, detected=np.ones(len(tracked), np.bool_))

    def _associate(
        self, tracks: np.ndarray, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray
    ) -> np.ndarray:
        """The track of each detection, -1 for none: (N,) rows of `tracks`."""
        overlap = iou(to_boxes(tracks["at"]), boxes.astype(np.float64))  # (T, N)
        overlap *= tracks["label"][:, None] == labels[None, :]
        row_of = np.full(len(boxes), -1)
        sure = scores >= self.high_score
        _match(overlap, row_of, np.arange(len(tracks)), np.flatnonzero(sure), self.match_iou)
        # A lost track has no place that an unsure detection could confirm.
        waiting = ~tracks["lost"]
        waiting[row_of[row_of >= 0]] = False
        unsure = np.flatnonzero(~sure & (scores >= self.low_score))
        _match(overlap, row_of, np.flatnonzero(waiting), unsure, LOW_MATCH_IOU)
        return row_of

    def reset(self, stream: str) -> None:
        """End all tracks of the stream; the ids they had stay used."""
        self.streams.pop(stream, None)

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """Nothing is held back, so nothing is left to give; one that comes again goes on with new ids."""
        self.reset(stream)
        return ()


def _coast(state: _Stream, dt_s: float, size: tuple[int, int]) -> Instances:
    """Where the tracks that were seen last time are now, `dt_s` later; without those that left the frame."""
    tracks = predict(state.tracks[~state.tracks["lost"]], dt_s)
    boxes = to_boxes(tracks["at"]).astype(np.float32)
    inside = ((boxes[:, :2] < size) & (boxes[:, 2:] > 0)).all(axis=1)
    tracks, boxes = tracks[inside], boxes[inside]
    labels: dict[str, Any] = {"labels": tracks["label"].copy()} if state.labelled else {}
    return Instances(
        boxes=boxes,
        scores=tracks["score"].copy(),
        **labels,
        track_ids=tracks["id"].copy(),
        detected=np.zeros(len(tracks), np.bool_),
    )


def _match(
    overlap: np.ndarray, row_of: np.ndarray, rows: np.ndarray, columns: np.ndarray, min_iou: float
) -> None:
    """Pair tracks `rows` with detections `columns` for the largest sum of overlaps; write it to `row_of`."""
    if len(rows) and len(columns):
        part = overlap[np.ix_(rows, columns)]
        part[part < min_iou] = 0  # before assigning: a pair that cannot be must not displace one that can
        picked, at = linear_sum_assignment(part, maximize=True)
        real = part[picked, at] > 0
        row_of[columns[at[real]]] = rows[picked[real]]


def begin(at: np.ndarray, scores: np.ndarray, labels: np.ndarray, now_ns: int) -> np.ndarray:
    """New tracks, ids still 0, at centres and sizes `at` (N, 4) px: TRACK rows."""
    tracks = np.zeros(len(at), TRACK)
    size = _size(at)
    tracks["at"], tracks["score"], tracks["label"], tracks["seen_ns"] = at, scores, labels, now_ns
    tracks["var"], tracks["speed_var"] = (BOX_STD * size) ** 2, (SPEED_STD * size) ** 2
    return tracks


def predict(tracks: np.ndarray, dt_s: float) -> np.ndarray:
    """A copy of the tracks, `dt_s` later; constant velocity driven by white-noise acceleration."""
    tracks = tracks.copy()
    noise = (ACCELERATION * _size(tracks["at"])) ** 2  # (T, 1) px²/s³
    tracks["at"] += dt_s * tracks["speed"]
    np.maximum(tracks["at"][:, 2:], 1.0, out=tracks["at"][:, 2:])
    tracks["var"] += dt_s * (2 * tracks["cov"] + dt_s * tracks["speed_var"]) + noise * dt_s**3 / 3
    tracks["cov"] += dt_s * tracks["speed_var"] + noise * dt_s**2 / 2
    tracks["speed_var"] += noise * dt_s
    return tracks


def correct(tracks: np.ndarray, rows: np.ndarray, at: np.ndarray) -> None:
    """Kalman update, in place, of `rows` with the centres and sizes `at` (len(rows), 4) that were seen."""
    met = tracks[rows]  # a copy
    gain = met["var"] / (met["var"] + (BOX_STD * _size(at)) ** 2)  # (n, 4)
    speed_gain = gain * met["cov"] / met["var"]
    error = at - met["at"]
    met["at"] += gain * error
    met["speed"] += speed_gain * error
    met["speed_var"] -= speed_gain * met["cov"]
    met["cov"] *= 1 - gain
    met["var"] *= 1 - gain
    tracks[rows] = met


def to_centres(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) x0 y0 x1 y1 to (N, 4) centre x, centre y, width, height."""
    boxes = boxes.astype(np.float64)
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def to_boxes(at: np.ndarray) -> np.ndarray:
    """The inverse of `to_centres`."""
    return np.concatenate([at[:, :2] - at[:, 2:] / 2, at[:, :2] + at[:, 2:] / 2], axis=1)


def _size(at: np.ndarray) -> np.ndarray:
    return np.maximum(at[:, 2:].mean(axis=1, keepdims=True), 1.0)  # (N, 1) px
