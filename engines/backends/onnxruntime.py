"""ONNX models by ONNX Runtime: on the CPU, or on a GPU by its CUDA and TensorRT providers.

It takes and gives NumPy arrays, even on a GPU: crops of images on the GPU are cut there, copied to the host
and copied back. To use PyTorch's memory in place (`io_binding`), it would have to work on the stream of the
thread that runs it; but it is given its stream when a model is loaded, in any thread. To keep frames on the
GPU, compile a plan (`posestream engine build`).
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from engines.backends.base import Items, TensorSpec, host_array
from engines.backends.batches import BUCKETS, Batches, join
from engines.errors import EngineError, one_line
from engines.home import cache_home

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
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class OnnxEngine:
    """An `.onnx` model; a graph fixed to a batch of one runs B items one after another."""

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        outputs: list[str] | None = None,
        *,
        provider: str = "cpu",
        gpu: int = 0,
        optimised: bool = True,
    ):
        """Load `path`; with `outputs`, only these are computed and returned.

        Args:
            path: the model.
            threads: of the processor, for operators that run there.
            outputs: their names; None for all.
            provider: `cpu`, `cuda`, or `tensorrt` (compiles at the first run; kept in the cache).
            gpu: CUDA's number of the GPU, for the providers that use one.
            optimised: False runs the graph node by node as written, as a reference.

        Raises:
            EngineError: the file is missing, not an ONNX model, or uses operators that this runtime does not
                know; or the installed runtime has no such provider.
        """
        session = _session(path, _options(threads, optimised=optimised), provider, gpu)
        self._session: onnxruntime.InferenceSession | None = session
        self.device = "cpu" if provider == "cpu" else f"cuda:{gpu}"
        self.inputs = {node.name: _spec(node) for node in session.get_inputs()}
        self.outputs = {node.name: _spec(node) for node in session.get_outputs()}
        if outputs is not None and self.outputs.keys() >= set(outputs):
            self.outputs = {name: self.outputs[name] for name in outputs}
        fixed = max((spec.shape[0] for spec in self.inputs.values() if spec.shape), default=-1)
        sizes = (fixed, fixed) if fixed > 0 else (1, BUCKETS[-1])
        self._batches = Batches(path.stem, lambda largest: None, *sizes)

    @property
    def halved(self) -> int:
        """How often the largest batch was halved because the device's memory was too small."""
        return self._batches.halved

    def run(self, inputs: Mapping[str, Items]) -> dict[str, np.ndarray]:
        """Run a batch: items (B, …) by input name to arrays (B, …) by output name.

        Raises:
            EngineError: the runtime refuses the arrays, or the device's memory is too small.
        """
        arrays = {name: host_array(items) for name, items in inputs.items()}
        parts = self._batches.run(len(next(iter(arrays.values()))), partial(self._run_part, arrays))
        return join(parts, self.outputs)

    def _run_part(self, inputs: dict[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
        if self._session is None:
            raise EngineError("this engine was closed; load the model again")
        names = list(self.outputs)
        part = {name: array[start:stop] for name, array in inputs.items()}
        try:
            return dict(zip(names, self._session.run(names, part), strict=True))
        except Exception as error:  # the runtime's errors have no common base class
            raise EngineError(one_line(error)) from error

    def close(self) -> None:
        """Free the model's memory."""
        self._session = None


def _options(threads: int, *, optimised: bool) -> onnxruntime.SessionOptions:
    """Session options, chosen by measuring CPU time: RTMPose-m and YOLOX-nano, ONNX Runtime 1.31, one thread.

    The default graph level, with blocked convolutions, takes 57 ms a crop of RTMPose-m; `extended` 70, none
    74. A batch of 4 takes 53 ms a crop, a batch of 16 takes 58 ms. Outputs bound to our own memory, denormals
    treated as zero, and memory patterns make no measurable difference.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin take the cores from other stages: a detector and a pose model with two threads
    # each on the same two cores lose a third of their throughput.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena never gives back the memory of the largest batch: after a batch of 32, RTMPose-m holds
    # 465 MB with the arena and 221 MB without, at the same speed.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = ERRORS_ONLY
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _session(
    path: Path, options: onnxruntime.SessionOptions, name: str, gpu: int
) -> onnxruntime.InferenceSession:
    provider = PROVIDERS[name]
    if provider not in onnxruntime.get_available_providers():
        raise EngineError(
            f"onnxruntime-{name} needs a build of ONNX Runtime with {provider}, the installed one has "
            f"{onnxruntime.get_available_providers()}; pip uninstall onnxruntime, pip install onnxruntime-gpu"
        )
    if name != "cpu":
        load_cuda()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=_providers(name, gpu))
    except Exception as error:  # the runtime's errors have no common base class
        raise EngineError(
            f"{path.name}: not a model that ONNX Runtime can load ({one_line(error)}); "
            "delete the file and fetch the model again"
        ) from None
    if session.get_providers()[0] != provider:  # the runtime only warns, and uses the CPU
        raise EngineError(
            f"onnxruntime-{name}: {provider} does not start here, ONNX Runtime fell back to "
            f"{session.get_providers()[0]}; check that GPU, driver, CUDA and cuDNN fit together, or take "
            "--backend auto"
        )
    return session


def load_cuda() -> None:
    """Load CUDA and cuDNN from where pip installs them, for the providers that use a GPU.

    The loader does not look there.
    PyTorch goes first: it loads the libraries that it brings or depends on, wherever they are, and the
    runtime then finds them by name.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("torch")
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()


def _providers(name: str, gpu: int) -> list[Any]:
    """The provider with its options, and after it the providers for operators that it does not know."""
    if name == "cpu":
        return [PROVIDERS["cpu"]]
    # EXHAUSTIVE, the default, would search algorithms again at every new batch size.
    cuda = (PROVIDERS["cuda"], {"device_id": gpu, "cudnn_conv_algo_search": "HEURISTIC"})
    if name == "cuda":
        return [cuda, PROVIDERS["cpu"]]
    kept = cache_home() / "onnxruntime-tensorrt"
    kept.mkdir(parents=True, exist_ok=True)
    cached: dict[str, Any] = {
        "device_id": gpu,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(kept),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(kept),
    }
    return [(PROVIDERS["tensorrt"], cached), cuda, PROVIDERS["cpu"]]


def _spec(node: onnxruntime.NodeArg) -> TensorSpec:
    """Shape and dtype of a graph's input or output; symbolic sizes such as `batch` become -1."""
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(shape, np.dtype(DTYPES.get(node.type, np.object_)))
