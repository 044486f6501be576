"""BlazePose tracking: each track's last pose gives the region for the next frame. Used by `pose`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from engines.codecs.blazepose_alignment import alignment_diameters, rois_from_alignment
from engines.estimators.blazepose import BlazePoseEstimator, Poses
from engines.images.regions import duplicates, enclosing_boxes, squares_around, upright_ious
from operators.estimation.model_options import as_image
from operators.tracking.one_euro import OneEuro
from operators.tracking.rounds import rounds
from pipeline.packet import Instances, Packet

# The detector's square and the square from the last pose of the same person overlap by 0.6 or more, even if
# they come from different models; the squares of two persons side by side overlap by less than 0.3.
RESTART_IOU = 0.3
# MediaPipe's filter of the alignment points; it is active even where landmarks are not smoothed
# (pose_landmark_filtering.pbtxt). Speeds are in body circles a second.
ALIGNMENT_FILTER = {"min_cutoff": 0.01, "beta": 10.0, "derivative_cutoff": 1.0}


class BlazePoseTracking:
    """Estimates poses in regions that come from the tracks' last poses, or from the detector for new tracks.

    A track with a pose is looked for in the region that this pose gives, even if detector and tracker do not
    have it on this frame. If it is detected elsewhere, it restarts there. Rows are dropped if the model sees
    nobody (counted as `no_pose`), if an older track has the same person (`duplicate_pose`), and beyond
    `max_instances`.
    """

    def __init__(
        self,
        estimator: BlazePoseEstimator,
        max_instances: int | None,
        min_presence: float | None,
        count: Callable[[str, int], None],
    ):
        codec = estimator.codec
        self.estimator, self.max_instances, self.count = estimator, max_instances, count
        self.min_presence = codec.min_presence if min_presence is None else min_presence
        self.roi_scale = codec.roi_scale
        self.tracks: dict[str, StreamTracks] = {}  # by stream

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Process one frame of every stream at a time, since a frame's regions come from the frame before."""
        results = list(packets)
        for indices in rounds([packet.stream for packet in packets]):
            detected_on = [i for i in indices if packets[i].instances is not None]
            for i, result in zip(detected_on, self._estimate([packets[i] for i in detected_on]), strict=True):
                results[i] = result
        return results

    def _estimate(self, packets: list[Packet]) -> list[Packet]:
        """Estimate the poses of one frame of each of several streams, in one engine run."""
        chosen = [self._choose(packet) for packet in packets]
        if not chosen:
            return []
        image_index = np.repeat(np.arange(len(chosen)), [len(instances) for instances in chosen])
        rois = np.concatenate([instances.rois for instances in chosen])
        poses = self.estimator([as_image(packet) for packet in packets], image_index, rois)
        results = []
        for i, (packet, instances) in enumerate(zip(packets, chosen, strict=True)):
            of_packet = Poses(*(field[image_index == i] for field in poses))
            results.append(packet.replace(instances=self._accept(packet, instances, of_packet)))
        return results

    def _choose(self, packet: Packet) -> Instances:
        """The instances to estimate, with their regions as `rois`."""
        assert packet.instances is not None
        tracks = self.tracks.get(packet.stream)
        if tracks is None or tracks.size != packet.size:
            tracks = self.tracks[packet.stream] = StreamTracks(self.roi_scale, packet.size)
        instances = tracks.choose_regions(packet.instances)
        self._count("restarted", tracks.restarted)
        if self.max_instances is None or len(instances) <= self.max_instances:
            return instances
        best = np.lexsort((-instances.scores, ~tracks.have(instances.track_ids)))
        return instances.rows(np.sort(best[: self.max_instances]))

    def _accept(self, packet: Packet, instances: Instances, poses: Poses) -> Instances:
        """The instances that have a pose of their own; their regions are kept for the next frame."""
        tracks = self.tracks[packet.stream]
        since = tracks.since(instances.track_ids, packet.seq)
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
        tracks.update(posed, poses.alignment[kept], packet.seq, packet.pts_ns)
        return posed

    def _count(self, event: str, n: int) -> None:
        if n:  # an event that never happened gets no line in the statistics
            self.count(event, n)

    def reset(self, stream: str) -> None:
        """Forget the stream's tracks."""
        self.tracks.pop(stream, None)

    def close(self) -> None:
        """Free the model's memory."""
        self.estimator.close()


@dataclasses.dataclass(slots=True)
class _Track:
    since: int  # the frame of its first pose
    smooth: OneEuro  # filters the alignment points
    roi: np.ndarray  # (5,) from its last pose


class StreamTracks:
    """The tracks of one stream that had a pose on the last frame."""

    def __init__(self, roi_scale: float, size: tuple[int, int]):
        self.roi_scale, self.size = roi_scale, size  # size: of the frames, px
        self.by_id: dict[int, _Track] = {}
        self.last: Instances | None = None  # the last frame's instances, one row a track
        self.missed: set[int] = set()  # tracks that the tracker did not have on the last frame
        self.restarted = 0  # number of tracks that restarted on the last frame

    def choose_regions(self, found: Instances) -> Instances:
        """The rows of `found`, then the tracks that the tracker has missed, with a region each as `rois`.

        The region comes from the track's last pose. For a new track, or one that was detected elsewhere, it
        is the detector's region, or else the square around the box.
        """
        rois = found.rois.copy() if "rois" in found else squares_around(found.boxes, self.roi_scale)
        detected = found["detected"] if "detected" in found else np.ones(len(found), np.bool_)
        self.restarted = 0
        for row, track_id in enumerate(found.track_ids.tolist()):
            track = self.by_id.get(track_id)
            if track is None:
                continue
            if detected[row] and upright_ious(track.roi[None], rois[row : row + 1])[0] < RESTART_IOU:
                del self.by_id[track_id]
                self.restarted += 1
            else:
                rois[row] = track.roi
        return self._with_missed(found.replace(rois=rois))

    def _with_missed(self, found: Instances) -> Instances:
        """`found`, then the last rows of tracks that it lacks: a pose often lasts longer than a detection."""
        last, self.missed = self.last, self.by_id.keys() - set(found.track_ids.tolist())
        if last is None or not self.missed or not found.fields.keys() <= last.fields.keys():
            return found
        missed = last.rows([track_id in self.missed for track_id in last.track_ids.tolist()])
        missed = missed.replace(
            rois=np.stack([self.by_id[track_id].roi for track_id in missed.track_ids.tolist()]),
            detected=np.zeros(len(missed), np.bool_),
        )
        fields = {name: np.concatenate([array, missed[name]]) for name, array in found.fields.items()}
        return Instances(skeleton=found.skeleton, **fields)

    def have(self, track_ids: np.ndarray) -> np.ndarray:
        """(N,) bool: whether the track had a pose on the last frame."""
        return np.array([track_id in self.by_id for track_id in track_ids.tolist()], np.bool_)

    def since(self, track_ids: np.ndarray, seq: int) -> np.ndarray:
        """(N,) int64: the frame of each track's first pose; `seq` for new tracks, `seq` + 1 for missed ones.

        Missed tracks thus count as the youngest: a person whom the tracker lost and found again under another
        id gets that new id.
        """
        first = {track_id: track.since for track_id, track in self.by_id.items()}
        first |= dict.fromkeys(self.missed, seq + 1)
        return np.array([first.get(track_id, seq) for track_id in track_ids.tolist()], np.int64)

    def update(self, posed: Instances, alignment: np.ndarray, seq: int, time_ns: int) -> None:
        """Set the next regions of the tracks in `posed` from their `alignment` points (N, 2, 2).

        All other tracks are forgotten: their last region no longer says where they are.
        """
        scales = 1 / np.maximum(alignment_diameters(alignment), 1.0)
        smoothed = alignment.copy()
        by_id = {}
        for row, track_id in enumerate(posed.track_ids.tolist()):
            track = self.by_id.get(track_id) or _Track(seq, OneEuro(**ALIGNMENT_FILTER), np.empty(5))
            smoothed[row] = track.smooth(alignment[row], time_ns, scales[row])
            by_id[track_id] = track
        for track, roi in zip(by_id.values(), rois_from_alignment(smoothed, self.roi_scale), strict=True):
            track.roi = roi
        self.by_id, self.last = by_id, posed
