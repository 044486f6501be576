"""Tiny ONNX pose models that see what is bright: a real graph, a contract that fits it, and pictures for them.

Keypoint k of coco17 is where channel k % 3 is brightest. In a mirrored picture, a trained model swaps left and
right keypoints; this one does not, so with flip tests and mirrored crops its results show where sides are swapped.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from engines.codecs.heatmap import HeatmapCodec
from engines.contracts.contract import Contract
from engines.estimators.topdown import TopDown
from engines.images.model_input import Input
from engines.loading.load import load_engine

K = 17
SIZE = (48, 64)


def model_input(**changes) -> Input:
    """The input of a model: RGB crops of 64x48, not normalised, with some values changed."""
    values = {
        "name": "x",
        "size": (64, 48),
        "layout": "nhwc",
        "colour": "rgb",
        "mean": (0, 0, 0),
        "std": (1, 1, 1),
    }
    return Input(**values | {"placement": "centre", "pad_value": 0} | changes)


def contract(kind: str, *, udp: bool = False, name: str = "toy", skeleton: str = "coco17") -> Contract:
    """A SimCC or heatmap model for crops of 48x64, with 2 bins a px, or cells of 4 px."""
    width, height = SIZE
    cells = width // 4, height // 4
    if kind == "simcc":
        codec = {"kind": kind, "split_ratio": 2.0}
        outputs = {"simcc_x": {"name": "x", "shape": (-1, K, 2 * width)},
                   "simcc_y": {"name": "y", "shape": (-1, K, 2 * height)}}  # fmt: skip
    else:
        codec = {"kind": kind, "size": cells, "sigma": 2, "refine": "dark", "udp": udp}
        outputs = {"heatmaps": {"name": "maps", "shape": (-1, K, cells[1], cells[0])}}
    return Contract.model_validate({
        "name": name, "title": "toy", "task": "pose", "architecture": "toy", "licence": "-", "homepage": "-",
        "input": {"name": "in", "size": SIZE, "layout": "nchw", "colour": "rgb", "mean": (0, 0, 0),
                  "std": (255, 255, 255), "placement": "centre", "pad_value": 0, "box_padding": 1.25},
        "outputs": outputs, "codec": codec, "skeleton": skeleton,
        "asset": {"filename": f"{name}.onnx", "sha256": None,
                  "sources": [{"kind": "file", "url": f"{name}.onnx"}]},
    })  # fmt: skip


def save(model: Contract, path: Path) -> Path:
    """Write the model that the contract describes."""
    onnx = pytest.importorskip("onnx")
    node, constant = onnx.helper.make_node, onnx.numpy_helper.from_array
    width, height = model.input.size
    initializers = [constant(np.arange(K) % 3, "channel"), constant(np.empty(0, np.float32), "none")]
    nodes = [node("Gather", ["in", "channel"], ["seen"], axis=1)]
    if not isinstance(model.codec, HeatmapCodec):
        for axis, name, bins in ((2, "x", 2 * width), (3, "y", 2 * height)):
            initializers.append(constant(np.array([0, 0, bins]), f"bins_{name}"))
            initializers.append(constant(np.array([axis]), f"axis_{name}"))
            initializers.append(constant(np.array([1, 1, 2], np.float32), f"double_{name}"))
            nodes.append(node("ReduceMax", ["seen", f"axis_{name}"], [f"best_{name}"], keepdims=0))
            # Bin 2 x is pixel x, and those between lie between.
            nodes.append(
                node("Resize", [f"best_{name}", "none", f"double_{name}"], [name], mode="linear",
                     coordinate_transformation_mode="asymmetric")
            )  # fmt: skip
    else:
        # Without UDP cell i is pixel 4 i; with it, the first and last cells are the first and last pixels.
        cells = np.array([1, K, *model.codec.size[::-1]])
        initializers += [constant(cells[2:], "cells"), constant(np.array([2, 3]), "sides")]
        nodes.append(
            node("Resize", ["seen", "none", "none", "cells"], ["maps"], mode="linear", axes=[2, 3],
                 coordinate_transformation_mode="align_corners" if model.codec.udp else "asymmetric")
        )  # fmt: skip
    tensor, real = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "toy",
        [tensor("in", real, ["batch", 3, height, width])],
        [tensor(out.name, real, ["batch", *out.shape[1:]]) for out in model.outputs.values()],
        [tensor for tensor in initializers if any(tensor.name in node.input for node in nodes)],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())
    return path


def top_down(folder: Path, model: Contract, **options: bool) -> TopDown:
    """The model, ready to run."""
    path = save(model, folder / f"{model.name}.onnx")
    return TopDown(model, load_engine(model, path=path), **options)


def install(home: Path, name: str, kind: str, **options: str) -> None:
    """Put the model and its contract where the user's own models lie."""
    model = contract(kind, name=name, **options)  # type: ignore[arg-type]
    sha256 = hashlib.sha256(save(model, home / "toy.onnx").read_bytes()).hexdigest()
    kept = home / "assets" / sha256[:16] / model.asset.filename
    kept.parent.mkdir(parents=True, exist_ok=True)
    (home / "toy.onnx").rename(kept)
    described = model.model_copy(update={"asset": model.asset.model_copy(update={"sha256": sha256})})
    (home / "models").mkdir(exist_ok=True)
    (home / "models" / f"{name}.yaml").write_text(yaml.safe_dump(described.model_dump(mode="json")))


def spots(*centres: tuple[float, float], size: tuple[int, int] = (200, 160), sigma: float = 14) -> np.ndarray:
    """A black picture (H, W, 3) uint8 with a bright spot around each centre x, y; by three, R, G and B."""
    y, x = np.mgrid[: size[1], : size[0]]
    picture = np.zeros((size[1], size[0], 3))
    for n, (cx, cy) in enumerate(centres):
        picture[..., n % 3] += 250 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return picture.clip(0, 255).round().astype(np.uint8)
