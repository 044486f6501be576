"""Runs in the peer's environment: makes the model files of the contest.

python ultralytics_weights.py random OUT.pt CLIP ...       YOLO11n-pose with random weights
python ultralytics_weights.py sized IN.pt OUT.pt CLIP      the same weights, for the rectangle of a clip
python ultralytics_weights.py export IN.pt                 IN.onnx, exported by ultralytics
"""

import sys

import cv2
import numpy as np
import torch
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.nn.tasks import PoseModel

MODEL = "yolo11n-pose.yaml"
SEED, SIZE, STRIDE = 0, 640, 32
CONFIDENCE, CANDIDATES = 0.25, 2  # at most 2 cells of a clip's first frame score above the threshold


def random_weights(out, *clips):
    """Random weights, with batch statistics of the clips; without these all frames give the same output."""
    torch.manual_seed(SEED)
    network = PoseModel(MODEL, nc=1, verbose=False)
    network.names = {0: "person"}
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
            module.reset_running_stats()
    square = LetterBox((SIZE, SIZE), auto=False)
    frames = np.stack([square(image=first_frame(clip))[..., ::-1] for clip in clips])  # (B, H, W, 3)
    batch = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        network.train()(torch.cat([batch, batch.flip(3)]))
        scores = network.eval()(batch)[0][:, 4].sort(descending=True).values  # (B, cells)
        highest = scores[:, CANDIDATES - 1].max()
        for branch in network.model[-1].cv3:
            branch[-1].bias += torch.logit(torch.tensor(CONFIDENCE)) - torch.logit(highest)
    arguments = {"imgsz": SIZE, "task": "pose", "model": MODEL}
    torch.save({"model": network, "train_args": arguments, "epoch": -1}, out)


def sized(source, out, clip):
    """Set the size to which `predict` pads: the model's size, as little as possible on the shorter side."""
    checkpoint = torch.load(source, map_location="cpu", weights_only=False)
    height, width = first_frame(clip).shape[:2]
    longest = checkpoint["train_args"]["imgsz"]
    scale = longest / max(height, width)
    size = [-(-round(side * scale) // STRIDE) * STRIDE for side in (height, width)]
    checkpoint["train_args"]["imgsz"] = size
    torch.save(checkpoint, out)
    print(f"{size[1]}x{size[0]}")


def export(source):
    YOLO(source).export(format="onnx", device="cpu")


def first_frame(clip):
    good, frame = cv2.VideoCapture(clip).read()
    if not good:
        raise SystemExit(f"{clip}: no frame could be read")
    return frame


if __name__ == "__main__":
    {"random": random_weights, "sized": sized, "export": export}[sys.argv[1]](*sys.argv[2:])
