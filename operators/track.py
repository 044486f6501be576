"""Give detections ids that stay the same over time: ByteTrack with real time in place of frame numbers.

Looked at first: `trackers` (brings opencv-python, counts frames), `norfair` and `motpy` (an object a track,
frames, the unmaintained filterpy); `supervision` has dropped its own. None takes time in seconds or coasts.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022
(arXiv:2110.06864): match the sure detections first, then use the unsure ones only to keep tracks going.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from engines.images.boxes import overlap
from operators.tracking import kalman as motions
from operators.tracking.association import match, pairs
from operators.tracking.rounds import rounds
from pipeline.operator import Operator
from pipeline.packet import Instances, Packet

Score = Annotated[float, Field(ge=0, le=1)]
MatchIou = Annotated[float, Field(gt=0, lt=1, description="a box that overlaps less is another animal")]
Seconds = Annotated[float, Field(gt=0, description="a track that no detection has met for longer ends")]

LOW_MATCH_IOU = 0.5  # of unsure detections; the paper's, section 4.1


class _Tracks(NamedTuple):
    """T tracks, a row each."""

    ids: np.ndarray  # (T,) int64
    labels: np.ndarray  # (T,) object
    scores: np.ndarray  # (T,) float32
    seen_ns: np.ndarray  # (T,) int64, when a detection last met it
    lost: np.ndarray  # (T,) bool: the last detection run has missed it
    motion: np.ndarray  # (T, 5, 4), see `operators.tracking.kalman`

    def rows(self, index: np.ndarray | slice) -> _Tracks:
        """Those that `index` picks."""
        return _Tracks._make(field[index] for field in self)


def _none() -> _Tracks:
    dtypes = (np.int64, np.object_, np.float32, np.int64, np.bool_)
    return _Tracks._make([*(np.empty(0, dtype) for dtype in dtypes), np.empty((0, 5, 4))])


def _joined(parts: Sequence[_Tracks]) -> _Tracks:
    """All of them, one behind the other."""
    return _Tracks._make(map(_stacked, zip(*parts, strict=True)))


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


class _Found(NamedTuple):
    """The N detections of S packets of as many streams, one behind the other."""

    streams: list[str]  # (S,)
    instances: list[Instances]  # (S,)
    counts: list[int]  # (S,)
    at_ns: np.ndarray  # (S,) int64, time on the streams' clocks
    stream_of: np.ndarray  # (N,) int64, which of the streams
    boxes: np.ndarray  # (N, 4) float32
    scores: np.ndarray  # (N,) float32
    labels: np.ndarray  # (N,) object; empty ones where there are none

    @classmethod
    def of(cls, packets: Sequence[Packet]) -> _Found:
        """Those of packets that detection has looked at."""
        found = [packet.instances for packet in packets if packet.instances is not None]
        counts = [len(one) for one in found]
        labels = [one.labels if "labels" in one else np.full(len(one), "", np.object_) for one in found]
        return cls(
            [packet.stream for packet in packets],
            found,
            counts,
            np.array([packet.pts_ns for packet in packets]),
            np.arange(len(found)).repeat(counts),
            _stacked([one.boxes for one in found]),
            _stacked([one.scores for one in found]),
            _stacked(labels),
        )


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
        """Track the packets of all streams at once, but one behind the other of each stream."""
        results = list(packets)
        for together in rounds([packet.stream for packet in packets]):
            states = {i: self._state(packets[i]) for i in together}
            looked = [i for i in together if packets[i].instances is not None]
            found = self._update([states[i] for i in looked], [packets[i] for i in looked]) if looked else []
            for i, instances in zip(looked, found, strict=True):
                results[i] = packets[i].replace(instances=instances)
            for i, state in states.items():
                # Where nothing has looked yet there is nothing, which differs from having found none.
                if packets[i].instances is None and state.updated_ns is not None:
                    results[i] = packets[i].replace(instances=_coast(state, packets[i]))
        return results

    def _state(self, packet: Packet) -> _Stream:
        """What is remembered of the packet's stream, as far as it goes on."""
        now_ns = packet.pts_ns
        state = self.streams.get(packet.stream)
        if state is None or state.size != packet.size or not state.goes_on(now_ns, self.lost_ns):
            state = self.streams[packet.stream] = _Stream(packet.size)
        state.last_ns = now_ns
        return state

    def _update(self, states: list[_Stream], packets: list[Packet]) -> list[Instances]:
        """Of S streams, with a packet each on which detection ran: the detections that belong to tracks."""
        found = _Found.of(packets)
        for state, instances in zip(states, found.instances, strict=True):
            state.labelled = "labels" in instances
        tracks = _joined([state.tracks for state in states])
        counts = [len(state.tracks.ids) for state in states]
        stream_of = np.arange(len(states)).repeat(counts)  # (T,)
        now_ns = found.at_ns[stream_of]  # (T,), and when its stream was last looked at
        then_ns = np.array([state.updated_ns or 0 for state in states]).repeat(counts)

        motion = motions.predict(tracks.motion, (now_ns - then_ns) / 1e9)
        alive = ~tracks.lost | (now_ns - tracks.seen_ns <= self.lost_ns)
        rows, columns = pairs(counts, found.counts)
        overlaps = overlap(motions.boxes_of(motion)[rows], found.boxes[columns])
        overlaps *= (tracks.labels[rows] == found.labels[columns]) & alive[rows]
        row_of = self._associate(rows, columns, overlaps, tracks.lost, found.scores)

        met = row_of >= 0
        rows = row_of[met]
        motions.correct(motion, rows, found.boxes[met])
        scores, seen_ns, lost = tracks.scores.copy(), tracks.seen_ns.copy(), np.ones(len(motion), np.bool_)
        scores[rows], seen_ns[rows], lost[rows] = found.scores[met], now_ns[rows], False
        motion[lost, motions.SPEED, motions.SIZE] = 0  # what is out of sight should not grow or shrink
        tracks = _Tracks(tracks.ids, tracks.labels, scores, seen_ns, lost, motion)

        new = (~met & (found.scores >= max(self.high_score, self.new_score))).nonzero()[0]
        if len(new):
            row_of[new] = len(motion) + np.arange(len(new))
            tracks = _joined([tracks, self._begin(found, new)])
            stream_of = np.concatenate([stream_of, found.stream_of[new]])
            alive = np.concatenate([alive, np.ones(len(new), np.bool_)])
        self._hand_back(states, found.at_ns, tracks, stream_of, alive)
        return self._tracked(found, tracks, row_of)

    def _associate(
        self,
        rows: np.ndarray,
        columns: np.ndarray,
        overlaps: np.ndarray,
        lost: np.ndarray,
        scores: np.ndarray,
    ) -> np.ndarray:
        """The track of each detection, -1 for none: (N,).

        Args:
            rows: (P,), the tracks in pairs of a track and a detection of one stream.
            columns: (P,), the detections.
            overlaps: (P,) of them; 0 for pairs that cannot be.
            lost: (T,), of the tracks.
            scores: (N,), of the detections.
        """
        row_of = np.full(len(scores), -1)
        sure = scores >= self.high_score
        match(row_of, rows, columns, overlaps, sure[columns] & (overlaps >= self.match_iou))
        unsure = ~sure & (scores >= self.low_score)
        if unsure.any():
            # A lost track has no place that an unsure detection could confirm.
            waiting = ~lost
            waiting[row_of[row_of >= 0]] = False
            may = unsure[columns] & waiting[rows] & (overlaps >= LOW_MATCH_IOU)
            match(row_of, rows, columns, overlaps, may)
        return row_of

    def _begin(self, found: _Found, new: np.ndarray) -> _Tracks:
        """Tracks where these were found."""
        ids = []
        for n in found.stream_of[new].tolist():
            self.ids_given[found.streams[n]] += 1
            ids.append(self.ids_given[found.streams[n]])
        boxes, at_ns = found.boxes[new], found.at_ns[found.stream_of[new]]
        here = np.zeros(len(new), np.bool_)
        return _Tracks(np.array(ids), found.labels[new], found.scores[new], at_ns, here, motions.begin(boxes))

    @staticmethod
    def _hand_back(
        states: list[_Stream], at_ns: np.ndarray, tracks: _Tracks, stream_of: np.ndarray, alive: np.ndarray
    ) -> None:
        """Give each stream its tracks, new ones last, without those that were lost for too long."""
        if len(states) == 1 and alive.all():
            states[0].tracks, states[0].updated_ns = tracks, int(at_ns[0])
            return
        order = np.argsort(stream_of, kind="stable")
        order = order[alive[order]]
        tracks = tracks.rows(order)
        stops = np.searchsorted(stream_of[order], np.arange(len(states) + 1)).tolist()
        for state, start, stop, now_ns in zip(states, stops, stops[1:], at_ns.tolist(), strict=False):
            state.tracks, state.updated_ns = tracks.rows(slice(start, stop)), now_ns

    def _tracked(self, found: _Found, tracks: _Tracks, row_of: np.ndarray) -> list[Instances]:
        """The detections of each packet that belong to a track, with its id."""
        tracked = row_of >= 0
        if not tracked.all():
            self.count("detections without a track", int((~tracked).sum()))
        ids, results, start = tracks.ids[row_of[tracked]], [], 0
        kept = np.bincount(found.stream_of[tracked], minlength=len(found.streams)).tolist()
        first = 0  # row of `found`
        for instances, count, number in zip(found.instances, found.counts, kept, strict=True):
            if number < count:
                instances = instances.rows(tracked[first : first + count])
            detected = np.ones(number, np.bool_)
            results.append(instances.replace(track_ids=ids[start : start + number], detected=detected))
            first, start = first + count, start + number
        return results

    def reset(self, stream: str) -> None:
        """End all tracks of the stream; the ids they had stay used."""
        self.streams.pop(stream, None)

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """Nothing is held back, so nothing is left to give; one that comes again goes on with new ids."""
        self.reset(stream)
        return ()


def _coast(state: _Stream, packet: Packet) -> Instances:
    """Where the tracks that were seen last time are now; without those that left the frame."""
    assert state.updated_ns is not None
    tracks = state.tracks.rows(~state.tracks.lost)
    elapsed_s = np.full(len(tracks.ids), (packet.pts_ns - state.updated_ns) / 1e9)
    boxes = motions.boxes_of(motions.predict(tracks.motion, elapsed_s)).astype(np.float32)
    inside = np.all((boxes[:, :2] < packet.size) & (boxes[:, 2:] > 0), axis=1)
    tracks, boxes = tracks.rows(inside), boxes[inside]
    labels: dict[str, Any] = {"labels": tracks.labels} if state.labelled else {}
    return Instances(
        boxes=boxes,
        scores=tracks.scores,
        **labels,
        track_ids=tracks.ids,
        detected=np.zeros(len(boxes), np.bool_),
    )
