"""A tiny YOLO-pose in ONNX: an instance for each cell of 16 px whose brightest red pixel is bright enough.

Its box is the cell's, grown by 8 px to each side; keypoint k lies k px right of the cell's centre.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from engines.codecs.yolo import YoloCodec
from engines.contracts.contract import Contract

SIZE, CELL, K = (96, 64), 16, 17


def contract(name: str = "toy-yolo", labels: tuple[str, ...] = ("person",), values: int = 3) -> Contract:
    return Contract.model_validate({
        "name": name, "title": "toy", "task": "pose_onestage", "architecture": "yolo", "licence": "-",
        "homepage": "-", "skeleton": "coco17", "labels": list(labels),
        "codec": {"kind": "yolo-pose", "values_per_keypoint": values},
        "input": {"name": "images", "size": SIZE, "layout": "nchw", "colour": "rgb", "mean": (0, 0, 0),
                  "std": (255, 255, 255), "placement": "centre", "pad_value": 114},
        "outputs": {"predictions": {"name": "output0", "shape": (-1, 4 + len(labels) + K * values, -1)}},
        "asset": {"filename": f"{name}.onnx", "sha256": None,
                  "sources": [{"kind": "file", "url": f"{name}.onnx"}]},
    })  # fmt: skip


def detector_contract() -> Contract:
    """The same model read as a detector of persons, without keypoints."""
    return contract().model_copy(update={"task": "detect", "codec": YoloCodec(kind="yolo")})


def graph(values: int = 3, *, transposed: bool = False):
    """The model, for one class; `transposed` has a row a cell, as no model of ultralytics' has."""
    onnx = pytest.importorskip("onnx")
    node, constant, value = (
        onnx.helper.make_node,
        onnx.numpy_helper.from_array,
        onnx.helper.make_tensor_value_info,
    )
    x, y = np.meshgrid(np.arange(SIZE[0] // CELL), np.arange(SIZE[1] // CELL))
    centres = (np.stack([x.ravel(), y.ravel()]) + 0.5) * CELL  # (2, cells)
    boxes = np.concatenate([centres, np.full_like(centres, 2 * CELL)])
    points = [
        [centres[0] + k, centres[1], np.full_like(centres[0], 0.5 + k / 100)][:values] for k in range(K)
    ]
    rows = np.concatenate(points)
    initializers = [
        constant(np.array([0]), "red"),
        constant(np.array([0, 1, -1]), "row"),
        constant(np.float32(0), "zero"),
        constant(boxes[None].astype(np.float32), "boxes"),
        constant(rows[None].astype(np.float32), "points"),
    ]
    nodes = [
        node("Gather", ["images", "red"], ["seen"], axis=1),
        node("MaxPool", ["seen"], ["cells"], kernel_shape=[CELL] * 2, strides=[CELL] * 2),
        node("Reshape", ["cells", "row"], ["scores"]),
        node("Mul", ["scores", "zero"], ["nothing"]),
        node("Add", ["boxes", "nothing"], ["all boxes"]),  # for each image of the batch
        node("Add", ["points", "nothing"], ["all points"]),
        node("Concat", ["all boxes", "scores", "all points"], ["found"], axis=1),
        node("Transpose", ["found"], ["output0"], perm=[0, 2, 1] if transposed else [0, 1, 2]),
    ]
    width, height = SIZE
    shape = ["batch", len(centres[0]), len(rows) + 5] if transposed else ["batch", len(rows) + 5, "cells"]
    proto = onnx.helper.make_graph(
        nodes,
        "toy",
        [value("images", onnx.TensorProto.FLOAT, ["batch", 3, height, width])],
        [value("output0", onnx.TensorProto.FLOAT, shape)],
        initializers,
    )
    return onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def install(home: Path, name: str, values: int = 3) -> None:
    """Put the model and its contract where the user's own models lie."""
    model = contract(name, values=values)
    data = graph(values).SerializeToString()
    sha256 = hashlib.sha256(data).hexdigest()
    kept = home / "assets" / sha256[:16] / model.asset.filename
    kept.parent.mkdir(parents=True)
    kept.write_bytes(data)
    described = model.model_copy(update={"asset": model.asset.model_copy(update={"sha256": sha256})})
    (home / "models").mkdir(exist_ok=True)
    (home / "models" / f"{name}.yaml").write_text(yaml.safe_dump(described.model_dump(mode="json")))


def picture(*spots: tuple[int, int, int], size: tuple[int, int] = SIZE) -> np.ndarray:
    """A black picture (H, W, 3) with a red square of 4 px at each x, y, of that brightness."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    for x, y, brightness in spots:
        image[y : y + 4, x : x + 4, 0] = brightness
    return image
