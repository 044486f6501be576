"""Where the tracks of a stream are looked for next: the memory of the operator `pose`."""

from __future__ import annotations

import dataclasses

import numpy as np

from engines.codecs.blazepose import alignment_diameters, rois_from_alignment
from engines.regions import overlaps, squares_round
from operators.smooth import OneEuro
from pipeline.packet import Instances

# Squares of one person, one from the detector and one from the last pose, overlap by 0.6 and more even when
# they come from different models; those of two persons side by side by less than 0.3.
RESTART_IOU = 0.3
# How MediaPipe steadies the alignment points, and only these, even where it is told not to smooth
# (pose_landmark_filtering.pbtxt); speeds count in body circles a second.
ALIGNMENT_FILTER = {"min_cutoff": 0.01, "beta": 10.0, "derivative_cutoff": 1.0}


@dataclasses.dataclass(slots=True)
class _Track:
    since: int  # the frame of its first pose
    steady: OneEuro
    roi: np.ndarray  # (5,) by its last pose


class Follower:
    """The tracks of one stream that had a pose on the last frame."""

    def __init__(self, roi_scale: float):
        self.roi_scale = roi_scale
        self.tracks: dict[int, _Track] = {}
        self.last: Instances | None = None  # the rows of the last frame, a row a track
        self.missed: set[int] = set()  # tracks that the tracker did not have on the last frame
        self.restarted = 0  # tracks, on the last frame

    def look(self, found: Instances) -> Instances:
        """The rows of `found`, then the tracks that the tracker has missed; `rois` says where to look.

        A track is looked for where its last pose says. It starts from the detector's region (or the square
        round its box) if it is new, or if it was detected elsewhere.
        """
        rois = found.rois.copy() if "rois" in found else squares_round(found.boxes, self.roi_scale)
        detected = found["detected"] if "detected" in found else np.ones(len(found), np.bool_)
        self.restarted = 0
        for row, track_id in enumerate(found.track_ids.tolist()):
            track = self.tracks.get(track_id)
            if track is None:
                continue
            if detected[row] and overlaps(track.roi[None], rois[row : row + 1])[0] < RESTART_IOU:
                del self.tracks[track_id]
                self.restarted += 1
            else:
                rois[row] = track.roi
        return self._with_missed(found.replace(rois=rois))

    def _with_missed(self, found: Instances) -> Instances:
        """`found`, then the last frame's rows of tracks not in it: a pose often outlasts a detection."""
        last, self.missed = self.last, self.tracks.keys() - set(found.track_ids.tolist())
        if last is None or not self.missed or not found.fields.keys() <= last.fields.keys():
            return found
        missed = last.rows([track_id in self.missed for track_id in last.track_ids.tolist()])
        missed = missed.replace(
            rois=np.stack([self.tracks[track_id].roi for track_id in missed.track_ids.tolist()]),
            detected=np.zeros(len(missed), np.bool_),
        )
        fields = {name: np.concatenate([array, missed[name]]) for name, array in found.fields.items()}
        return Instances(skeleton=found.skeleton, **fields)

    def follows(self, track_ids: np.ndarray) -> np.ndarray:
        """(N,) bool: whether the track had a pose on the last frame."""
        return np.array([track_id in self.tracks for track_id in track_ids.tolist()], np.bool_)

    def since(self, track_ids: np.ndarray, seq: int) -> np.ndarray:
        """(N,) int64: the frames of the tracks' first poses; `seq` for new ones, `seq` + 1 for missed ones.

        So a person whom the tracker lost and found again under another id has the tracker's new id.
        """
        first = {track_id: track.since for track_id, track in self.tracks.items()}
        first |= dict.fromkeys(self.missed, seq + 1)
        return np.array([first.get(track_id, seq) for track_id in track_ids.tolist()], np.int64)

    def remember(self, posed: Instances, alignment: np.ndarray, seq: int, time_ns: int) -> None:
        """Note where the tracks in `posed`, by their `alignment` points (N, 2, 2), are looked for next.

        All others are forgotten: where they were says little about where they are.
        """
        scales = 1 / np.maximum(alignment_diameters(alignment), 1.0)
        steady = alignment.copy()
        tracks = {}
        for row, track_id in enumerate(posed.track_ids.tolist()):
            track = self.tracks.get(track_id) or _Track(seq, OneEuro(**ALIGNMENT_FILTER), np.empty(5))
            steady[row] = track.steady(alignment[row], time_ns, scales[row])
            tracks[track_id] = track
        for track, roi in zip(tracks.values(), rois_from_alignment(steady, self.roi_scale), strict=True):
            track.roi = roi
        self.tracks, self.last = tracks, posed
