"""Frames for the tests of sinks: like real ones, with missing values."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from engines.contracts.skeletons import load_skeleton
from pipeline.operator import RunInfo
from pipeline.packet import Instances, Packet

RUN = RunInfo("0123456789ab", "test", 0)


def people(n: int, seed: int = 0, skeleton: str = "blazepose33") -> Instances:
    random = np.random.default_rng(seed)
    keypoints = len(load_skeleton(skeleton).keypoints)
    corner = random.uniform(0, 300, (n, 2))
    return Instances(
        skeleton=skeleton,
        boxes=np.concatenate([corner, corner + random.uniform(50, 200, (n, 2))], axis=1).astype(np.float32),
        scores=random.random(n, np.float32),
        labels=np.array(["person"] * n, np.object_),
        track_ids=np.arange(1, n + 1),
        keypoints=random.uniform(0, 500, (n, keypoints, 2)).astype(np.float32),
        keypoint_scores=random.random((n, keypoints), np.float32),
        keypoints_3d=random.normal(size=(n, keypoints, 3)).astype(np.float32),
    )


def frame(seq: int, instances: Instances | None, stream: str = "yard", **changes: object) -> Packet:
    packet = Packet(stream, seq, 33_366_667 * seq, 1_790_000_000_000_000_000 + seq, (640, 480))
    return packet.replace(instances=instances, **changes)


def varied(stream: str = "yard") -> list[Packet]:
    """Frames without detection, without instances, with a missing point, with a missing pose, and full ones."""
    incomplete = people(2, seed=3)
    points = incomplete.keypoints.copy()
    points[0, 7] = np.nan
    points[1] = np.nan
    incomplete = incomplete.replace(keypoints=points, track_ids=np.array([4, -1]))
    empty = Instances.empty()
    by_frame = [None, empty, people(1, 1), people(3, 2), incomplete, empty, people(1, 4)]
    return [frame(seq, instances, stream) for seq, instances in enumerate(by_frame)]


def count_frames(path: Path) -> int:
    """The number of frames that can be decoded from a video."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))
