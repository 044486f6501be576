"""Poses of tracks that are followed from frame to frame: the work of `pose` with BlazePose."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from engines.codecs.blazepose_alignment import alignment_diameters, rois_from_alignment
from engines.contracts.contract import BlazePoseLandmarksCodec
from engines.estimators.blazepose import PoseEstimator, Poses
from engines.images.regions import duplicates, enclosing_boxes, overlaps, squares_round
from operators.estimation.model_options import as_image
from operators.smooth import OneEuro
from pipeline.packet import Instances, Packet

# Squares of one person, one from the detector and one from the last pose, overlap by 0.6 and more even when
# they come from different models; those of two persons side by side by less than 0.3.
RESTART_IOU = 0.3
# How MediaPipe steadies the alignment points, and only these, even where it is told not to smooth
# (pose_landmark_filtering.pbtxt); speeds count in body circles a second.
ALIGNMENT_FILTER = {"min_cutoff": 0.01, "beta": 10.0, "derivative_cutoff": 1.0}


class FollowedPoses:
    """Poses where the tracks' last poses say, and where the detector has found new ones.

    A track with a pose is looked for where that pose says, whether or not the detector or the tracker has it
    on this frame; it starts anew from a detection that is elsewhere. Left out are rows in which the model
    sees nobody (counted as `no_pose`), younger tracks on a person that has one already (`duplicate_pose`),
    and rows beyond `max_instances`.
    """

    def __init__(
        self,
        estimator: PoseEstimator,
        max_instances: int | None,
        min_presence: float | None,
        count: Callable[[str, int], None],
    ):
        codec = estimator.contract.codec
        assert isinstance(codec, BlazePoseLandmarksCodec)  # the only one whose poses say where to look next
        self.estimator, self.max_instances, self.count = estimator, max_instances, count
        self.min_presence = codec.min_presence if min_presence is None else min_presence
        self.roi_scale = codec.roi_scale
        self.followers: dict[str, Follower] = {}  # by stream

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Work in rounds, as a frame's regions come from the frame before: one of every stream at a time."""
        results = list(packets)
        for indices in rounds([packet.stream for packet in packets]):
            looked_at = [i for i in indices if packets[i].instances is not None]
            for i, result in zip(looked_at, self._estimate([packets[i] for i in looked_at]), strict=True):
                results[i] = result
        return results

    def _estimate(self, packets: list[Packet]) -> list[Packet]:
        """The poses of one frame of each of several streams, by one run of the engine."""
        chosen = [self._choose(packet) for packet in packets]
        if not chosen:
            return []
        image_index = np.repeat(np.arange(len(chosen)), [len(instances) for instances in chosen])
        rois = np.concatenate([instances.rois for instances in chosen])
        poses = self.estimator([as_image(packet) for packet in packets], image_index, rois)
        results = []
        for i, (packet, instances) in enumerate(zip(packets, chosen, strict=True)):
            own = Poses(*(field[image_index == i] for field in poses))
            results.append(packet.replace(instances=self._accept(packet, instances, own)))
        return results

    def _choose(self, packet: Packet) -> Instances:
        """The rows to look at, with the regions to look in as `rois`."""
        assert packet.instances is not None
        follower = self.followers.get(packet.stream)
        if follower is None or follower.size != packet.size:
            follower = self.followers[packet.stream] = Follower(self.roi_scale, packet.size)
        instances = follower.look(packet.instances)
        self._count("restarted", follower.restarted)
        if self.max_instances is None or len(instances) <= self.max_instances:
            return instances
        best = np.lexsort((-instances.scores, ~follower.follows(instances.track_ids)))
        return instances.rows(np.sort(best[: self.max_instances]))

    def _accept(self, packet: Packet, instances: Instances, poses: Poses) -> Instances:
        """The rows that have a pose of their own; where they are is remembered."""
        follower = self.followers[packet.stream]
        since = follower.since(instances.track_ids, packet.seq)
        present = poses.presence >= self.min_presence
        boxes = enclosing_boxes(poses.keypoints)
        repeated = np.zeros_like(present)
        repeated[present] = duplicates(poses.keypoints[present], boxes[present], since[present])
        self._count("no_pose", int((~present).sum()))
        self._count("duplicate_pose", int(repeated.sum()))

        kept = present & ~repeated
        fields = {
            "boxes": boxes[kept],
            "keypoints": poses.keypoints[kept],
            "keypoint_scores": poses.keypoint_scores[kept],
        }
        contract = self.estimator.contract
        if contract.keypoints_3d:
            fields["keypoints_3d"] = poses.keypoints_3d[kept]
        posed = instances.rows(kept).replace(skeleton=contract.skeleton, **fields)
        follower.remember(posed, poses.alignment[kept], packet.seq, packet.pts_ns)
        return posed

    def _count(self, event: str, n: int) -> None:
        if n:  # an event that never happened is not worth a line
            self.count(event, n)

    def reset(self, stream: str) -> None:
        """Forget where the stream's tracks were."""
        self.followers.pop(stream, None)

    def close(self) -> None:
        """Free the model's memory."""
        self.estimator.close()


def rounds(streams: Sequence[str]) -> list[list[int]]:
    """Indices by turn: the first item of every stream, then the second of those that have one, and so on."""
    turns: list[list[int]] = []
    seen: Counter[str] = Counter()
    for index, stream in enumerate(streams):
        if seen[stream] == len(turns):
            turns.append([])
        turns[seen[stream]].append(index)
        seen[stream] += 1
    return turns


@dataclasses.dataclass(slots=True)
class _Track:
    since: int  # the frame of its first pose
    steady: OneEuro
    roi: np.ndarray  # (5,) by its last pose


class Follower:
    """The tracks of one stream that had a pose on the last frame."""

    def __init__(self, roi_scale: float, size: tuple[int, int]):
        self.roi_scale, self.size = roi_scale, size  # size: of the pictures, px
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
