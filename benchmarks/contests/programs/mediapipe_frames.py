"""Runs in the peer's environment: reads raw RGB frames from stdin, writes the original's landmarks to a file.

    python mediapipe_frames.py WIDTH HEIGHT OUT.npz < frames

Writes landmarks (F, 33, 3) x px, y px, visibility, and world (F, 33, 3) m; NaN in frames without a pose.
"""

import sys

import mediapipe
import numpy as np

LANDMARKS = 33


def main():
    width, height, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    landmarks, world = [], []
    with mediapipe.solutions.pose.Pose(model_complexity=1, smooth_landmarks=False) as pose:
        while len(data := sys.stdin.buffer.read(width * height * 3)) == width * height * 3:
            result = pose.process(np.frombuffer(data, np.uint8).reshape(height, width, 3))
            if result.pose_landmarks is None:
                landmarks.append(np.full((LANDMARKS, 3), np.nan))
                world.append(np.full((LANDMARKS, 3), np.nan))
                continue
            landmarks.append(
                [(p.x * width, p.y * height, p.visibility) for p in result.pose_landmarks.landmark]
            )
            world.append([(p.x, p.y, p.z) for p in result.pose_world_landmarks.landmark])
    np.savez(out, landmarks=np.array(landmarks), world=np.array(world))


main()
