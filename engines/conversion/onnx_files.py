"""Convert ONNX graphs to FP16 and write them, also those too large for one file. Needs the package `onnx`."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import EngineError

if TYPE_CHECKING:
    import onnx

FILE_LIMIT = 2**31 - 2**26  # bytes of weights: protobuf's limit of 2 GB, less room for the graph


def to_float16(path: Path) -> onnx.ModelProto:
    """The FP32 graph in `path` converted to FP16, with its weights; inputs and outputs stay FP32.

    Raises:
        EngineError: the library is missing.
    """
    require("onnx")
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each weight that rounds to zero
        return convert_float_to_float16(
            onnx.load(path),
            keep_io_types=True,
            disable_shape_infer=path.with_name(f"{path.name}.data").exists(),
        )


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; weights too large for one file go to `PATH.data` beside it."""
    import onnx

    if weight_bytes(model) < FILE_LIMIT:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # saving moves the weights out of the model
    onnx.save_model(copy, path, save_as_external_data=True, location=f"{path.name}.data")


def weight_bytes(model: onnx.ModelProto) -> int:
    """The size of a model's weights in bytes."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def require(library: str) -> None:
    """Check that a library for exporting is installed.

    Raises:
        EngineError: it is not.
    """
    if find_spec(library) is None:
        raise EngineError(
            f"exporting needs {library}, which is not installed: pip install 'posestream[torch]'; "
            "a file that was exported on another machine runs without it"
        )
