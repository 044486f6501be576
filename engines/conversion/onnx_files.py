"""ONNX files as such: how large, written whole, in half precision. Needs the package `onnx`."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import EngineError

if TYPE_CHECKING:
    import onnx

FILE_LIMIT = 2**31 - 2**26  # protobuf's, with room for the graph


def to_float16(path: Path) -> onnx.ModelProto:
    """The FP32 graph in `path` in FP16, weights too; its inputs and outputs stay FP32.

    Raises:
        EngineError: the library is missing.
    """
    require("onnx")
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a line for each weight that rounds to zero
        return convert_float_to_float16(
            onnx.load(path),
            keep_io_types=True,
            disable_shape_infer=path.with_name(f"{path.name}.data").exists(),
        )


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; weights beyond what one file can hold go to `PATH.data` beside it."""
    import onnx

    if weight_bytes(model) < FILE_LIMIT:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    beside = onnx.ModelProto()
    beside.CopyFrom(model)  # as the weights are taken out of what is saved so
    onnx.save_model(beside, path, save_as_external_data=True, location=f"{path.name}.data")


def weight_bytes(model: onnx.ModelProto) -> int:
    """How many bytes its weights take."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def require(library: str) -> None:
    """Make sure that a library for exporting is there.

    Raises:
        EngineError: it is not.
    """
    if find_spec(library) is None:
        raise EngineError(
            f"exporting needs {library}, which is not installed: pip install 'posestream[torch]'; "
            "what was exported elsewhere runs without it"
        )
