"""Give detections ids that stay the same over time: ByteTrack with real time in place of frame numbers.

Looked at first: `trackers` (brings opencv-python, counts frames), `norfair` and `motpy` (an object a track,
frames, the unmaintained filterpy); `supervision` has dropped its own. None takes time in seconds or coasts.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022
(arXiv:2110.06864): match the sure detections first, then use the unsure ones only to keep tracks going.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field
from scipy.optimize import linear_sum_assignment

from engines.boxes import iou
from operators import motion as motions
from pipeline.operator import Operator
from pipeline.packet import Instances, Packet

Score = Annotated[float, Field(ge=0, le=1)]
MatchIou = Annotated[float, Field(gt=0, lt=1, description="a box that overlaps less is another animal")]
Seconds = Annotated[float, Field(gt=0, description="a track that no detection has met for longer ends")]

LOW_MATCH_IOU = 0.5  # of unsure detections; the paper's, section 4.1


class _Tracks(NamedTuple):
    """T tracks of a stream, a row each."""

    ids: np.ndarray  # (T,) int64
    labels: np.ndarray  # (T,) object
    scores: np.ndarray  # (T,) float32
    seen_ns: np.ndarray  # (T,) int64, when a detection last met it
    lost: np.ndarray  # (T,) bool: the last detection run has missed it
    motion: np.ndarray  # (T, 5, 4), see `operators.motion`

    def rows(self, index: np.ndarray) -> _Tracks:
        """Those that `index` picks."""
        return _Tracks._make(field[index] for field in self)

    def joined_by(self, others: _Tracks) -> _Tracks:
        """These, and others behind them."""
        return _Tracks._make(np.concatenate(pair) for pair in zip(self, others, strict=True))


def _none() -> _Tracks:
    dtypes = (np.int64, np.object_, np.float32, np.int64, np.bool_)
    return _Tracks._make([*(np.empty(0, dtype) for dtype in dtypes), np.empty((0, 5, 4))])


@dataclasses.dataclass
class _Stream:
    """What is remembered of one stream."""

    size: tuple[int, int]  # of its pictures
    last_ns: int | None = None  # of its last packet
    updated_ns: int | None = None  # of the last packet on which detection ran: `tracks` are as of then
    tracks: _Tracks = dataclasses.field(default_factory=_none)
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
        tracks = state.tracks
        if tracks.lost.any():
            tracks = tracks.rows(~tracks.lost | (now_ns - tracks.seen_ns <= self.lost_ns))
        motion = motions.predict(tracks.motion, elapsed_s)
        state.labelled = "labels" in found
        labels = found.labels if state.labelled else np.full(len(found), "", np.object_)

        overlap = iou(motions.boxes_of(motion), found.boxes)  # (T, N)
        overlap *= tracks.labels[:, None] == labels
        row_of = self._associate(overlap, tracks.lost, found.scores)  # (N,) row in tracks, -1 for none
        met = row_of >= 0
        rows = row_of[met]
        motions.correct(motion, rows, found.boxes[met])
        scores, seen_ns, lost = (
            tracks.scores.copy(),
            tracks.seen_ns.copy(),
            np.ones(len(tracks.ids), np.bool_),
        )
        scores[rows], seen_ns[rows], lost[rows] = found.scores[met], now_ns, False
        motion[lost, motions.SPEED, motions.SIZE] = 0  # what is out of sight should not grow or shrink
        tracks = _Tracks(tracks.ids, tracks.labels, scores, seen_ns, lost, motion)

        new = (~met & (found.scores >= max(self.high_score, self.new_score))).nonzero()[0]
        if len(new):
            row_of[new] = len(tracks.ids) + np.arange(len(new))
            tracks = tracks.joined_by(self._begin(stream, found.rows(new), labels[new], now_ns))
        state.tracks, state.updated_ns = tracks, now_ns

        tracked = row_of >= 0
        if not tracked.all():
            self.count("detections without a track", len(found) - int(tracked.sum()))
            found, row_of = found.rows(tracked), row_of[tracked]
        return found.replace(track_ids=tracks.ids[row_of], detected=np.ones(len(found), np.bool_))

    def _begin(self, stream: str, found: Instances, labels: np.ndarray, now_ns: int) -> _Tracks:
        """New tracks where these were found."""
        count, given = len(found), self.ids_given[stream]
        self.ids_given[stream] += count
        ids = given + 1 + np.arange(count)
        seen_ns, lost = np.full(count, now_ns), np.zeros(count, np.bool_)
        return _Tracks(ids, labels, found.scores, seen_ns, lost, motions.begin(found.boxes))

    def _associate(self, overlap: np.ndarray, lost: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The track of each detection, -1 for none: (N,) rows of `overlap` (T, N)."""
        row_of = np.full(len(scores), -1)
        sure = scores >= self.high_score
        _match(overlap, row_of, np.arange(len(lost)), sure.nonzero()[0], self.match_iou)
        unsure = (~sure & (scores >= self.low_score)).nonzero()[0]
        if len(unsure):
            # A lost track has no place that an unsure detection could confirm.
            waiting = ~lost
            waiting[row_of[row_of >= 0]] = False
            _match(overlap, row_of, waiting.nonzero()[0], unsure, LOW_MATCH_IOU)
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
    tracks = state.tracks.rows(~state.tracks.lost)
    boxes = motions.boxes_of(motions.predict(tracks.motion, dt_s)).astype(np.float32)
    inside = np.all((boxes[:, :2] < size) & (boxes[:, 2:] > 0), axis=1)
    tracks, boxes = tracks.rows(inside), boxes[inside]
    labels: dict[str, Any] = {"labels": tracks.labels} if state.labelled else {}
    return Instances(
        boxes=boxes,
        scores=tracks.scores,
        **labels,
        track_ids=tracks.ids,
        detected=np.zeros(len(boxes), np.bool_),
    )


def _match(
    overlap: np.ndarray, row_of: np.ndarray, rows: np.ndarray, columns: np.ndarray, min_iou: float
) -> None:
    """Pair tracks `rows` with detections `columns` for the largest sum of overlaps; write it to `row_of`."""
    if len(rows) and len(columns):
        part = overlap[rows[:, None], columns]
        part[part < min_iou] = 0  # before assigning: a pair that cannot be must not displace one that can
        picked, at = linear_sum_assignment(part, maximize=True)
        real = part[picked, at] > 0
        row_of[columns[at[real]]] = rows[picked[real]]
