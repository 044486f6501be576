"""Runs in the peer's environment: the original BlazePose on clips, one after the other, as in its examples.

    python mediapipe_video.py LOOPS CLIP ...

A person is tracked over all loops of a clip. The graph chooses the number of threads.
"""

import sys
from contextlib import ExitStack

import cv2
import mediapipe
from measured import frames_of, measure

loops, *clips = sys.argv[1:]


def work():
    frames = persons = 0
    for clip, pose in zip(clips, poses, strict=True):
        for frame in frames_of(clip, int(loops)):
            found = pose.process(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            frames, persons = frames + 1, persons + (found.pose_landmarks is not None)
    return frames, persons


with ExitStack() as stack:  # load all before the clock starts
    poses = [stack.enter_context(mediapipe.solutions.pose.Pose(model_complexity=1)) for _ in clips]
    measure(work)
