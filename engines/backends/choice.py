"""Which backend runs a file: the fastest that is installed, has its device, and can run it."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator
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


def choices(contract: Contract, path: Path) -> Iterator[tuple[Backend, str]]:
    """What `auto` means for the file `path` here, and why, as a line of a log; then what else would run it.

    A compiled plan comes first, where one was built; nothing is compiled unasked, as that takes minutes.
    """
    if path.suffix == ".tflite":
        yield "litert", "a TensorFlow Lite model"
    elif path.suffix in CHECKPOINTS:
        yield "torch", "a checkpoint"
    elif not cuda_devices():
        yield "onnxruntime", "on the CPU: no CUDA device"
    else:
        yield from _on_gpu(contract, path)


def _on_gpu(contract: Contract, path: Path) -> Iterator[tuple[Backend, str]]:
    for backend in _plans(contract, path):
        yield backend, "a plan was built for this GPU"
    build = f"posestream engine build {contract.name}"
    if "CUDAExecutionProvider" in _providers():
        yield "onnxruntime-cuda", f"no plan that runs here: {build}"
        yield "onnxruntime", "on the CPU though there is a GPU"
    else:
        yield (
            "onnxruntime",
            "on the CPU though there is a GPU: this onnxruntime has no CUDA provider, and there is no plan "
            f"that runs here; {build}, or pip install onnxruntime-gpu",
        )


def _plans(contract: Contract, path: Path) -> Iterator[Backend]:
    """The backends that have a plan for the file."""
    backends: tuple[Literal["tensorrt", "tensorrt-rtx"], ...] = ("tensorrt", "tensorrt-rtx")
    modules = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
    for backend in backends:
        if find_spec(modules[backend]):
            from engines.plans import find_plan

            if find_plan(contract, path, backend):
                yield backend


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
