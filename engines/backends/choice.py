"""Which backend runs a file: the fastest that is installed, has its device, and can run it."""

from __future__ import annotations

import ctypes
import functools
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from engines.contract import Contract

Backend = Literal[
    "auto",
    "litert",
    "onnxruntime",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "torch",
    "tensorrt",
    "tensorrt-rtx",
]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
CHECKPOINTS = {".pth", ".pt", ".safetensors"}


def suits(backend: Backend, path: Path) -> bool:
    """Whether a backend runs files of this kind."""
    if backend == "litert":
        return path.suffix == ".tflite"
    if backend == "torch":
        return path.suffix in CHECKPOINTS
    return path.suffix not in CHECKPOINTS | {".tflite"}


def choose(contract: Contract, path: Path) -> tuple[Backend, str]:
    """What `auto` means for the file `path` here, and why, as a line of a log.

    A compiled plan comes first, where one was built; nothing is compiled unasked, as that takes minutes.

    Raises:
        EngineError: nothing that is installed can run the file.
    """
    if path.suffix == ".tflite":
        return "litert", "a TensorFlow Lite model"
    if path.suffix in CHECKPOINTS:
        return "torch", "a checkpoint"
    if not cuda_devices():
        return "onnxruntime", "on the CPU: no CUDA device"
    if plan := _plan(contract, path):
        return plan, "a plan was built for this GPU"
    if "CUDAExecutionProvider" in _providers():
        return "onnxruntime-cuda", f"no plan yet: posestream engine build {contract.name}"
    return (
        "onnxruntime",
        "on the CPU though there is a GPU: this onnxruntime has no CUDA provider, and no plan was built; "
        f"posestream engine build {contract.name}, or pip install onnxruntime-gpu",
    )


def _plan(contract: Contract, path: Path) -> Backend | None:
    backends: tuple[Literal["tensorrt", "tensorrt-rtx"], ...] = ("tensorrt", "tensorrt-rtx")
    modules = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
    if not any(find_spec(module) for module in modules.values()):
        return None
    from engines.plans import find_plan

    for backend in backends:
        if find_spec(modules[backend]) and find_plan(contract, path, backend):
            return backend
    return None


def _providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


@functools.cache
def cuda_devices() -> int:
    """How many GPUs the driver of this machine offers, by the driver itself; 0 without one."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
