"""Runs in the peer's environment: rtmlib on clips, one after the other, as in its examples.

    python rtmlib_video.py DETECTOR.onnx WIDTH HEIGHT POSE.onnx WIDTH HEIGHT THREADS SPINNING LOOPS CLIP ...

THREADS of each of its two sessions; 0: one a core, as shipped. SPINNING: whether they spin while they wait;
1: as shipped. The detector is RTMDet with the suppression of boxes in its graph. It detects on every
frame; nothing is tracked or drawn.
"""

import sys

import onnxruntime
import rtmlib
from measured import frames_of, measure

detector, det_width, det_height, pose, pose_width, pose_height, threads, spinning, loops, *clips = sys.argv[
    1:
]

if (threads, spinning) != ("0", "1"):  # rtmlib passes no options on
    session = onnxruntime.InferenceSession

    def tuned(*args, **kwargs):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(threads)
        options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        return session(*args, sess_options=options, **kwargs)

    onnxruntime.InferenceSession = tuned

find = rtmlib.RTMDet(detector, (int(det_width), int(det_height)))
estimate = rtmlib.RTMPose(pose, (int(pose_width), int(pose_height)))


def work():
    frames = persons = 0
    for clip in clips:
        for frame in frames_of(clip, int(loops)):
            boxes = find(frame)
            if len(boxes):  # without boxes, rtmlib takes the whole image as a person
                estimate(frame, bboxes=boxes)
            frames, persons = frames + 1, persons + len(boxes)
    return frames, persons


measure(work)
