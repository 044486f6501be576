"""Give detections ids that stay the same over time: ByteTrack with real time in place of frame numbers.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022
(arXiv:2110.06864): match detections of high score first, then use those of low score only to continue tracks.

Why not a library: `trackers` needs opencv-python and counts frames; `norfair` and `motpy` keep an object per
track, count frames and use the unmaintained filterpy; `supervision` has dropped its tracker. None of them
takes time in seconds, or predicts boxes for frames on which detection did not run.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import numpy as np
from pydantic import Field

from engines.images.boxes import overlap
from operators.tracking import kalman
from operators.tracking.association import assign, pairs_within_streams
from operators.tracking.rounds import rounds
from operators.tracking.tracks import Detections, StreamState, Tracks
from pipeline.operator import Operator
from pipeline.packet import Instances, Packet

Score = Annotated[float, Field(ge=0, le=1)]
HighScore = Annotated[Score, Field(description="detections from this score on are matched first")]
LowScore = Annotated[Score, Field(description="detections below this score are ignored")]
NewScore = Annotated[
    Score, Field(description="an unmatched detection from this score (and high_score) on starts a track")
]
MatchIou = Annotated[
    float, Field(gt=0, lt=1, description="least overlap (IoU) of a detection with the track it continues")
]
Seconds = Annotated[float, Field(gt=0, description="a track that was not detected for longer ends")]

LOW_MATCH_IOU = 0.5  # for detections of low score; section 4.1 of the paper


class Track(Operator):
    """Follow every instance through its stream.

    needs     boxes      float32 (N, 4)  x0, y0, x1, y1 in px of the frame
              scores     float32 (N,)
              labels     str     (N,)    optional: a track never changes its label
    provides  track_ids  int64   (N,)    from 1, never used twice for a stream in a run
              detected   bool    (N,)    False where the box is a prediction

    On frames on which detection ran, the rows are the detections that belong to a track, in their order and
    with all their fields; detections that belong to none are left out and counted. On frames that detection
    skipped (`every: n`), the rows are the predicted boxes of the tracks that the last detection matched, with
    their last score and label.

    A track starts with its first detection, since waiting for a second one would cost n frames; `new_score`
    guards against false detections. A track ends when it was not detected for `lost_s`. All tracks of a
    stream end when its clock goes backwards, or ahead by more than `lost_s`, when the frame size changes, and
    at events that reset.
    """

    needs = ("boxes", "scores")
    provides = ("track_ids", "detected")
    per_stream = True

    def __init__(
        self,
        high_score: HighScore = 0.5,
        low_score: LowScore = 0.1,
        new_score: NewScore = 0.5,
        match_iou: MatchIou = 0.2,
        lost_s: Seconds = 2.0,
    ):
        self.high_score, self.low_score, self.new_score = high_score, low_score, new_score
        self.match_iou, self.lost_ns = match_iou, round(lost_s * 1e9)
        self.streams: dict[str, StreamState] = {}
        self.ids_used: Counter[str] = Counter()  # by stream; kept when a stream ends

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Track the packets of all streams at once, but those of one stream one after the other."""
        results = list(packets)
        for indices in rounds([packet.stream for packet in packets]):
            states = {i: self._state(packets[i]) for i in indices}
            detected = [i for i in indices if packets[i].instances is not None]
            if detected:
                tracked = self._update([states[i] for i in detected], [packets[i] for i in detected])
                for i, instances in zip(detected, tracked, strict=True):
                    results[i] = packets[i].replace(instances=instances)
            for i, state in states.items():
                # Before the first detection `instances` stay None: no detector has run, so nothing is known.
                if packets[i].instances is None and state.updated_ns is not None:
                    results[i] = packets[i].replace(instances=state.predicted(packets[i]))
        return results

    def _state(self, packet: Packet) -> StreamState:
        """The state of the packet's stream; a new one if the packet does not continue it."""
        state = self.streams.get(packet.stream)
        if state is None or state.size != packet.size or not state.continues_at(packet.pts_ns, self.lost_ns):
            state = self.streams[packet.stream] = StreamState(packet.size)
        state.last_ns = packet.pts_ns
        return state

    def _update(self, states: list[StreamState], packets: list[Packet]) -> list[Instances]:
        """Update the tracks of S streams with the detections of a packet of each.

        Returns:
            For each packet the detections that belong to a track, with track ids.
        """
        found = Detections.of(packets)
        for state, instances in zip(states, found.instances, strict=True):
            state.has_labels = "labels" in instances
        tracks = Tracks.concatenate([state.tracks for state in states])
        counts = [len(state.tracks.ids) for state in states]
        stream_index = np.arange(len(states)).repeat(counts)  # (T,)
        now_ns = found.time_ns[stream_index]  # (T,)
        updated_ns = np.array([state.updated_ns or 0 for state in states]).repeat(counts)  # (T,)

        # Predict.
        motion = kalman.predict(tracks.motion, (now_ns - updated_ns) / 1e9)
        alive = ~tracks.lost | (now_ns - tracks.seen_ns <= self.lost_ns)

        # Match; tracks that have ended, and pairs of different labels, overlap by 0.
        rows, columns = pairs_within_streams(counts, found.counts)
        overlaps = overlap(kalman.boxes_of(motion)[rows], found.boxes[columns])
        overlaps *= (tracks.labels[rows] == found.labels[columns]) & alive[rows]
        track_of = self._associate(rows, columns, overlaps, tracks.lost, found.scores)

        # Correct.
        matched = track_of >= 0
        rows = track_of[matched]
        kalman.correct(motion, rows, found.boxes[matched])
        scores, seen_ns, lost = tracks.scores.copy(), tracks.seen_ns.copy(), np.ones(len(motion), np.bool_)
        scores[rows], seen_ns[rows], lost[rows] = found.scores[matched], now_ns[rows], False
        motion[lost, kalman.SPEED, kalman.SIZE] = 0  # an object out of sight should not grow or shrink
        tracks = Tracks(tracks.ids, tracks.labels, scores, seen_ns, lost, motion)

        # Start new tracks.
        new = (~matched & (found.scores >= max(self.high_score, self.new_score))).nonzero()[0]
        if len(new):
            track_of[new] = len(motion) + np.arange(len(new))
            tracks = Tracks.concatenate([tracks, self._start_tracks(found, new)])
            stream_index = np.concatenate([stream_index, found.stream_index[new]])
            alive = np.concatenate([alive, np.ones(len(new), np.bool_)])
        self._split_by_stream(states, found.time_ns, tracks, stream_index, alive)
        return self._with_track_ids(found, tracks, track_of)

    def _associate(
        self,
        rows: np.ndarray,
        columns: np.ndarray,
        overlaps: np.ndarray,
        lost: np.ndarray,
        scores: np.ndarray,
    ) -> np.ndarray:
        """Match detections to tracks.

        Args:
            rows: (P,), the tracks in pairs of a track and a detection of one stream.
            columns: (P,), the detections of the pairs.
            overlaps: (P,), of the pairs; 0 for pairs that must not match.
            lost: (T,) bool, of the tracks.
            scores: (N,), of the detections.

        Returns:
            The track of each detection, -1 for none: (N,).
        """
        track_of = np.full(len(scores), -1)
        high = scores >= self.high_score
        assign(track_of, rows, columns, overlaps, high[columns] & (overlaps >= self.match_iou))
        low = ~high & (scores >= self.low_score)
        if low.any():
            # A lost track's position is too uncertain to be confirmed by a detection of low score.
            unmatched = ~lost
            unmatched[track_of[track_of >= 0]] = False
            allowed = low[columns] & unmatched[rows] & (overlaps >= LOW_MATCH_IOU)
            assign(track_of, rows, columns, overlaps, allowed)
        return track_of

    def _start_tracks(self, found: Detections, new: np.ndarray) -> Tracks:
        """Tracks that start with the detections `new` (indices)."""
        ids = []
        for index in found.stream_index[new].tolist():
            self.ids_used[found.streams[index]] += 1
            ids.append(self.ids_used[found.streams[index]])
        boxes, seen_ns = found.boxes[new], found.time_ns[found.stream_index[new]]
        lost = np.zeros(len(new), np.bool_)
        return Tracks(np.array(ids), found.labels[new], found.scores[new], seen_ns, lost, kalman.begin(boxes))

    @staticmethod
    def _split_by_stream(
        states: list[StreamState],
        time_ns: np.ndarray,
        tracks: Tracks,
        stream_index: np.ndarray,
        alive: np.ndarray,
    ) -> None:
        """Give each stream's state its tracks that are alive, new ones last."""
        if len(states) == 1 and alive.all():
            states[0].tracks, states[0].updated_ns = tracks, int(time_ns[0])
            return
        order = np.argsort(stream_index, kind="stable")
        order = order[alive[order]]
        tracks = tracks.rows(order)
        stops = np.searchsorted(stream_index[order], np.arange(len(states) + 1)).tolist()
        for state, start, stop, now_ns in zip(states, stops, stops[1:], time_ns.tolist(), strict=False):
            state.tracks, state.updated_ns = tracks.rows(slice(start, stop)), now_ns

    def _with_track_ids(self, found: Detections, tracks: Tracks, track_of: np.ndarray) -> list[Instances]:
        """For each packet the detections that belong to a track, with its id."""
        tracked = track_of >= 0
        if not tracked.all():
            self.count("detections without a track", int((~tracked).sum()))
        ids = tracks.ids[track_of[tracked]]
        kept_counts = np.bincount(found.stream_index[tracked], minlength=len(found.streams)).tolist()
        results = []
        first = first_kept = 0  # of a packet: its first row of `found`, and of `ids`
        for instances, count, kept in zip(found.instances, found.counts, kept_counts, strict=True):
            if kept < count:
                instances = instances.rows(tracked[first : first + count])
            packet_ids = ids[first_kept : first_kept + kept]
            results.append(instances.replace(track_ids=packet_ids, detected=np.ones(kept, np.bool_)))
            first, first_kept = first + count, first_kept + kept
        return results

    def reset(self, stream: str) -> None:
        """End all tracks of the stream; their ids are not used again."""
        self.streams.pop(stream, None)

    def end_stream(self, stream: str) -> tuple[Packet, ...]:
        """End all tracks; no packets are held back. A stream that comes again gets new ids."""
        self.reset(stream)
        return ()
