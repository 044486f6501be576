"""ONNX models on the CPU, by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from engines.backends.base import TensorSpec
from engines.errors import EngineError

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
ERRORS_ONLY = 3


class OnnxEngine:
    """An `.onnx` model; a graph fixed to a batch of one runs B items one after another."""

    def __init__(self, path: Path, threads: int = 1, outputs: list[str] | None = None):
        """Load `path`; with `outputs`, only these are computed and given.

        Raises:
            EngineError: the file is missing, not an ONNX model, or uses what this runtime does not know.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Idle threads that spin would steal the cores from the other stages.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = ERRORS_ONLY
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors share no base of their own
            raise EngineError(
                f"{path.name}: not a model that ONNX Runtime can load ({_one_line(error)}); "
                "delete the file and fetch the model again"
            ) from None
        self._session: onnxruntime.InferenceSession | None = session
        self.inputs = {node.name: _spec(node) for node in session.get_inputs()}
        self.outputs = {node.name: _spec(node) for node in session.get_outputs()}
        if outputs is not None and self.outputs.keys() >= set(outputs):
            self.outputs = {name: self.outputs[name] for name in outputs}
        self._one_by_one = any(spec.shape[:1] == (1,) for spec in self.inputs.values())

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a batch: arrays (B, …) by input name to arrays (B, …) by output name.

        Raises:
            EngineError: the runtime refuses the arrays.
        """
        count = len(next(iter(inputs.values())))
        if count == 0:
            return {
                name: np.empty((0, *(max(n, 0) for n in spec.shape[1:])), spec.dtype)
                for name, spec in self.outputs.items()
            }
        if count > 1 and self._one_by_one:
            items = [self._run({name: a[i : i + 1] for name, a in inputs.items()}) for i in range(count)]
            return {name: np.concatenate([item[name] for item in items]) for name in self.outputs}
        return self._run(inputs)

    def _run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._session is None:
            raise EngineError("this engine was closed; load the model again")
        names = list(self.outputs)
        try:
            return dict(zip(names, self._session.run(names, inputs), strict=True))
        except Exception as error:  # the runtime's errors share no base of their own
            raise EngineError(_one_line(error)) from error

    def close(self) -> None:
        """Free the model's memory."""
        self._session = None


def _spec(node: onnxruntime.NodeArg) -> TensorSpec:
    """Shape and dtype of a graph's input or output; symbolic sizes (`batch`) become -1."""
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(shape, np.dtype(DTYPES.get(node.type, np.object_)))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
