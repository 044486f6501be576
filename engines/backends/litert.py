"""TensorFlow Lite models on the CPU, by the LiteRT interpreter and its XNNPACK kernels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from engines.backends.base import Items, TensorSpec, put
from engines.backends.litert_prune import prune
from engines.errors import EngineError, one_line


class LitertEngine:
    """A `.tflite` model whose graph is fixed to a batch of one; B items are run one after another."""

    device = "cpu"
    halved = 0  # only running out of device memory halves batches

    def __init__(self, path: Path, threads: int = 1, outputs: Collection[str] | None = None):
        """Load `path`; with `outputs`, operators that only other outputs need are removed from the graph.

        Raises:
            EngineError: the file is missing or not a TensorFlow Lite model, or it has a fixed batch above 1.
        """
        interpreter = _interpreter(path, _read(path), threads)
        if outputs is not None:
            available = {detail["name"] for detail in interpreter.get_output_details()}
            if available.issuperset(outputs) and available.difference(outputs):
                interpreter = _interpreter(path, prune(_read(path), outputs), threads)
        interpreter.allocate_tensors()
        self._interpreter: Interpreter | None = interpreter
        self._input_index, self.inputs = _tensors(interpreter.get_input_details())
        self._output_index, self.outputs = _tensors(interpreter.get_output_details())
        for name, spec in (self.inputs | self.outputs).items():
            if spec.shape[:1] not in ((1,), (-1,)):
                raise EngineError(
                    f"{path.name}: tensor {name!r} has shape {spec.shape}, expected a first axis of 1; "
                    "export the model for a batch of one"
                )

    def run(self, inputs: Mapping[str, Items]) -> dict[str, np.ndarray]:
        """Run B items one by one: (B, …) by input name to arrays (B, …) by output name."""
        interpreter = self._interpreter
        if interpreter is None:
            raise EngineError("this engine was closed; load the model again")
        count = len(next(iter(inputs.values())))
        results = {
            name: np.empty((count, *(max(n, 0) for n in spec.shape[1:])), spec.dtype)
            for name, spec in self.outputs.items()
        }
        for item in range(count):
            # Keep no view of the interpreter's memory after the statement, else `invoke` refuses to run.
            for name, index in self._input_index.items():
                put(inputs[name], interpreter.tensor(index)(), item)
            interpreter.invoke()
            for name, index in self._output_index.items():
                np.copyto(results[name][item], interpreter.tensor(index)()[0])
        return results

    def close(self) -> None:
        """Free the model's memory."""
        self._interpreter = None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror}); fetch the model again") from None


def _interpreter(path: Path, model: bytes, threads: int) -> Interpreter:
    try:
        return Interpreter(model_content=model, num_threads=threads)
    except (ValueError, RuntimeError) as error:
        raise EngineError(
            f"{path.name}: not a TensorFlow Lite model of {len(model)} bytes ({one_line(error)}); "
            "delete the file and fetch the model again"
        ) from None


def _tensors(details: list[dict[str, Any]]) -> tuple[dict[str, int], dict[str, TensorSpec]]:
    index = {detail["name"]: detail["index"] for detail in details}
    specs = {
        detail["name"]: TensorSpec(
            tuple(int(n) for n in detail["shape_signature"]), np.dtype(detail["dtype"])
        )
        for detail in details
    }
    return index, specs
