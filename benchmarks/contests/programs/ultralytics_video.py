"""Runs in the peer's environment: ultralytics on clips, one after the other, as in its examples.

    python ultralytics_video.py predict|track MODEL.pt|.onnx THREADS SPINNING LOOPS CLIP ...

THREADS of PyTorch; 0: the number of cores minus one, as shipped. SPINNING of ONNX Runtime's threads; 1: as
shipped. `track` gets the threshold of `predict`, as ours does; as shipped it also uses weaker detections.
"""

import sys

import cv2
from measured import measure
from ultralytics import YOLO

mode, model, threads, spinning, loops, *clips = sys.argv[1:]

if model.endswith(".onnx") and spinning == "0":  # ultralytics passes no options on
    import onnxruntime

    session = onnxruntime.InferenceSession

    def without_spinning(file, options=None, **kwargs):
        options = options or onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return session(file, options, **kwargs)

    onnxruntime.InferenceSession = without_spinning

yolo = YOLO(model, task="pose")
settings = {"conf": 0.25, "device": "cpu", "verbose": False}
yolo.predict(cv2.VideoCapture(clips[0]).read()[1], **settings)  # loads the model
if threads != "0":
    import torch

    torch.set_num_threads(int(threads))
work_on = {"predict": yolo.predict, "track": yolo.track}[mode]


def work():
    frames = persons = 0
    for clip in clips:
        for _ in range(int(loops)):
            for result in work_on(clip, stream=True, **settings):
                frames, persons = frames + 1, persons + len(result.boxes)
    return frames, persons


measure(work)
