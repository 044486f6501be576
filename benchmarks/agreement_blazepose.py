"""How far our BlazePose is from the original, MediaPipe, on the same frames of a single person.

    python benchmarks/agreement_blazepose.py [CLIP ...] [--every 5]

The original is installed on first use, in an environment of its own in the cache folder. Both get the same
decoded frames; ours are processed by the operators detect, track and pose. Distances are in percent of the
person's height, which is the extent in y of the original's 33 landmarks in that frame.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from contests.environment import PROGRAMS
from contests.mediapipe import PEER, mediapipe_python
from harness import sample_clip
from rich.console import Console
from rich.table import Table

from operators.decode import Decode
from operators.detect import Detect
from operators.pose import Pose
from operators.track import Track
from pipeline.operator import RunInfo
from pipeline.packet import Packet

PEER_PROGRAM = PROGRAMS / "mediapipe_frames.py"
# The original assumes 33.333 ms a frame for any clip, and its filter depends on that time.
PEER_FRAME_NS = 33_333_000
COLUMNS = (
    "clip", "frames", "found: ours", "original", "both",
    "2D median %", "p95 %", "3D median mm", "visibility median",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("clips", nargs="*", type=Path, help="default: the sample clip")
    parser.add_argument("--every", type=int, default=5, help="detect on every n-th frame")
    arguments = parser.parse_args()
    python = mediapipe_python()
    table = Table(*COLUMNS, title=f"posestream and {PEER}, blazepose-full")
    for clip in arguments.clips or [sample_clip()]:
        ours, original = run_both(clip, arguments.every, python)
        table.add_row(clip.name, *compare(ours, original))
    Console().print(table)


def run_both(clip: Path, every: int, python: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Landmarks (F, 33, 3) x px, y px, visibility, and world (F, 33, 3) m, by ours and by the original."""
    frames = Decode().read("clip", str(clip))
    first = next(frames)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "original.npz"
        command = [python, PEER_PROGRAM, str(first.size[0]), str(first.size[1]), out]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert peer.stdin is not None
        with peer.stdin:
            ours = run_ours(_copied_to(itertools.chain([first], frames), peer.stdin), every)
        if peer.wait():
            raise SystemExit(
                f"{clip}: the original failed with exit code {peer.returncode}; run {PEER_PROGRAM.name}"
            )
        with np.load(out) as found:
            return ours, {name: found[name] for name in ("landmarks", "world")}


def _copied_to(frames: Iterator[Packet], pipe: IO[bytes]) -> Iterator[Packet]:
    """The packets with the original's times; their pixels are also written to its pipe."""
    for packet in frames:
        assert packet.image is not None
        pipe.write(packet.image.tobytes())
        yield packet.replace(pts_ns=(packet.seq + 1) * PEER_FRAME_NS)


def run_ours(frames: Iterator[Packet], every: int) -> dict[str, np.ndarray]:
    """The first pose of each frame, as `run_both` returns it."""
    operators = [
        Detect("blazepose-detector", every=every),
        Track(),
        Pose("blazepose-full", max_instances=1),
    ]
    for operator in operators:
        operator.open(RunInfo("agreement", "agreement", 0))
    landmarks, world = [], []
    for frame in frames:
        packets = [frame]
        for operator in operators:
            packets = list(operator.process(packets))
        found = packets[0].instances
        landmarks.append(
            np.dstack([found.keypoints[:1], found.keypoint_scores[:1]])[0]
            if found
            else np.full((33, 3), np.nan)
        )
        world.append(found.keypoints_3d[0] if found else np.full((33, 3), np.nan))
    for operator in operators:
        operator.close()
    return {"landmarks": np.array(landmarks), "world": np.array(world)}


def compare(ours: dict[str, np.ndarray], original: dict[str, np.ndarray]) -> list[str]:
    """The cells of a row after the clip's name; distances in frames in which both found a person."""
    found = [np.isfinite(one["landmarks"]).all(axis=(1, 2)) for one in (ours, original)]  # (F,)
    both = found[0] & found[1]
    counts = [str(n) for n in (len(both), found[0].sum(), found[1].sum(), both.sum())]
    if not both.any():
        return [*counts, *["-"] * 4]
    a, b = ours["landmarks"][both], original["landmarks"][both]
    height = np.ptp(b[..., 1], axis=1)[:, None]
    distance = 100 * np.linalg.norm((a - b)[..., :2], axis=-1) / height
    distance_3d_mm = 1000 * np.linalg.norm(ours["world"][both] - original["world"][both], axis=-1)
    return [
        *counts,
        f"{np.median(distance):.2f}",
        f"{np.percentile(distance, 95):.2f}",
        f"{np.median(distance_3d_mm):.1f}",
        f"{np.median(np.abs(a - b)[..., 2]):.4f}",
    ]


if __name__ == "__main__":
    main()
