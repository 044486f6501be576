"""Runs in the peer's own environment: video files through rtmlib, as its examples do; prints JSON.

    python -P rtmlib_video.py DETECTOR.onnx WIDTH HEIGHT POSE.onnx WIDTH HEIGHT spinning|no-spinning CLIP ...

The detector is RTMDet with its suppression in the graph. A detection on every frame, no tracking, no drawing.
"""

import json
import sys
import time

import cv2
import onnxruntime
import rtmlib

detector, det_width, det_height, pose, pose_width, pose_height, spinning, *clips = sys.argv[1:]

if spinning == "no-spinning":
    session = onnxruntime.InferenceSession

    def without_spinning(*args, **kwargs):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return session(*args, sess_options=options, **kwargs)

    onnxruntime.InferenceSession = without_spinning

find = rtmlib.RTMDet(detector, (int(det_width), int(det_height)))
estimate = rtmlib.RTMPose(pose, (int(pose_width), int(pose_height)))
frames, persons, seconds, cpu = 0, 0, 0.0, 0.0
for clip in clips:
    capture = cv2.VideoCapture(clip)
    start, cpu_start = time.perf_counter(), time.process_time()
    while True:
        good, frame = capture.read()
        if not good:
            break
        boxes = find(frame)
        if len(boxes):  # without boxes, rtmlib takes the whole picture for a person
            estimate(frame, bboxes=boxes)
        frames, persons = frames + 1, persons + len(boxes)
    seconds += time.perf_counter() - start
    cpu += time.process_time() - cpu_start
figures = {"frames": frames, "fps": frames / seconds, "cores": cpu / seconds, "persons": persons / frames}
print(json.dumps(figures))
