"""Which backend runs a file: the fastest that is installed, has its device, and can run it."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from engines.contracts.contract import Contract
from engines.errors import EngineError

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


def kinds(backend: Backend) -> set[str]:
    """Of which kind the devices are that a backend runs on: cpu, cuda."""
    if backend == "torch":
        return {"cpu", "cuda"}
    return {"cpu"} if backend in ("litert", "onnxruntime") else {"cuda"}


def device_name(device: str) -> str:
    """A device by its full name: cpu, cuda:0.

    Raises:
        EngineError: there is no such device; with how many there are.
    """
    kind, _, index = device.partition(":")
    if device == "cpu":
        return device
    if kind != "cuda" or not (device == "cuda" or index.isdecimal()):
        raise EngineError(f"device {device!r} is unknown, expected cpu, cuda, or cuda:1 for the second GPU")
    count = cuda_devices()
    if int(index or 0) >= count:
        there = f"{count} CUDA device{'s' * (count > 1)}, from cuda:0 on" if count else "no CUDA device"
        raise EngineError(
            f"there is no device {device}, this machine has {there}; see that nvidia-smi lists it and that "
            "CUDA_VISIBLE_DEVICES does not hide it, or leave the device out"
        )
    return f"cuda:{int(index or 0)}"


def choices(contract: Contract, path: Path, device: str | None = None) -> Iterator[tuple[Backend, str]]:
    """What `auto` means for the file `path` here, and why, as a line of a log; then what else would run it.

    A compiled plan comes first, where one was built; nothing is compiled unasked, as that takes minutes. With
    a `device` (cpu, cuda:0) only what runs there is named, and there may be none.
    """
    found = _on_any(contract, path, device)
    kind = device and device.partition(":")[0]
    return ((backend, why) for backend, why in found if kind is None or kind in kinds(backend))


def _on_any(contract: Contract, path: Path, device: str | None) -> Iterator[tuple[Backend, str]]:
    if path.suffix == ".tflite":
        yield "litert", "a TensorFlow Lite model"
    elif path.suffix in CHECKPOINTS:
        yield "torch", "a checkpoint"
    elif device == "cpu":
        yield "onnxruntime", "on the CPU, as told"
    elif not cuda_devices():
        yield "onnxruntime", "on the CPU: no CUDA device"
    else:
        yield from _on_gpu(contract, path, device or "cuda:0")


def _on_gpu(contract: Contract, path: Path, device: str) -> Iterator[tuple[Backend, str]]:
    for backend in _plans(contract, path, device):
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


def _plans(contract: Contract, path: Path, device: str) -> Iterator[Backend]:
    """The backends that have a plan for the file and the GPU."""
    backends: tuple[Literal["tensorrt", "tensorrt-rtx"], ...] = ("tensorrt", "tensorrt-rtx")
    modules = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
    for backend in backends:
        if find_spec(modules[backend]):
            from engines.tensorrt.plan_cache import find_plan

            if find_plan(contract, path, backend, device):
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
