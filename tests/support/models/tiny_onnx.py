"""Tiny ONNX files with the names and shapes that a test asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from engines.contracts.contract import Contract  # noqa: E402
from engines.contracts.onnx_metadata import write_contract  # noqa: E402

OPSET = [helper.make_opsetid("", 17)]


def shaped(
    path: Path, inputs: dict[str, list], outputs: dict[str, list], dtype: int = TensorProto.FLOAT
) -> Path:
    """A graph whose outputs are filled with the input's mean; text in a shape is a size that varies."""
    name = next(iter(inputs))
    nodes, constants = [helper.make_node("ReduceMean", [name], ["mean"], keepdims=0)], []
    for output, sizes in outputs.items():
        fixed = np.array([1 if isinstance(size, str) else size for size in sizes], np.int64)
        constants.append(numpy_helper.from_array(fixed, f"{output} shape"))
        nodes.append(helper.make_node("Expand", ["mean", f"{output} shape"], [output]))
    return _save(path, nodes, {n: (dtype, s) for n, s in inputs.items()}, outputs, constants, dtype)


def peaks(path: Path, size: int, stride: int, keypoints: int) -> Path:
    """A landmark model fixed to size x size px: each heatmap is how bright every stride-th pixel is."""
    weights = numpy_helper.from_array(np.full((keypoints, 3, 1, 1), 1 / 3, np.float32), "weights")
    nodes = [helper.make_node("Conv", ["input", "weights"], ["heatmaps"], strides=[stride, stride])]
    cells = size // stride
    inputs = {"input": (TensorProto.FLOAT, ["batch", 3, size, size])}
    return _save(path, nodes, inputs, {"heatmaps": ["batch", keypoints, cells, cells]}, [weights])


def carrying(path: Path, contract: Contract) -> Path:
    """The same file with a contract inside."""
    model = onnx.load(path)
    write_contract(model, contract)
    onnx.save(model, path)
    return path


def _save(path, nodes, inputs, outputs, constants, dtype=TensorProto.FLOAT) -> Path:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in outputs.items()],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=OPSET, ir_version=8), path)
    return path
