"""Runs in the peer's own environment: video files through the original, as its examples do; prints JSON.

python mediapipe_video.py CLIP ...
"""

import json
import sys
import time

import cv2
import mediapipe

frames, seconds, cpu = 0, 0.0, 0.0
for clip in sys.argv[1:]:
    capture = cv2.VideoCapture(clip)
    with mediapipe.solutions.pose.Pose(model_complexity=1, smooth_landmarks=False) as pose:
        start, cpu_start = time.perf_counter(), time.process_time()
        while True:
            good, frame = capture.read()
            if not good:
                break
            pose.process(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            frames += 1
        seconds += time.perf_counter() - start
        cpu += time.process_time() - cpu_start
print(json.dumps({"frames": frames, "fps": frames / seconds, "cores": cpu / seconds}))
