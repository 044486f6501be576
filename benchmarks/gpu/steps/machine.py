"""The machine: its driver and libraries, and how long imports take."""

from __future__ import annotations

import ctypes
import importlib
import time
from collections.abc import Iterator

from measuring.isolation import Row
from measuring.parts import NOT_RUN

from steps import Place

MODULES = ("numpy", "cv2", "torch", "av", "onnxruntime", "cuda.bindings.runtime", "operators", "pipeline.run")
LIBRARIES = ("libcuda.so.1", "libnvcuvid.so.1")


def driver_and_libraries(place: Place) -> Iterator[Row]:
    """Versions of packages, the GPU and the driver, and whether the loader finds the driver's libraries.

    Raises:
        RuntimeError: CUDA's runtime finds no GPU.
    """
    from engines.device.gpus import this_gpu
    from tools.profiling.machine.hardware import PACKAGES, installed_versions

    yield {"packages": installed_versions((*PACKAGES, "cuda-bindings", "cupy-cuda13x", "triton"))}
    yield {name: _loaded(name) for name in LIBRARIES}
    gpu = None if place.dry else this_gpu()
    if gpu:
        import torch

        yield {**gpu._asdict(), "torch_cuda": torch.version.cuda, "torch_sees": torch.cuda.device_count()}
    elif place.dry:
        yield {NOT_RUN: "no GPU here"}
    else:
        raise RuntimeError("CUDA's runtime finds no GPU")


def _loaded(name: str) -> str:
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return str(error)
    return "found"


def imports(place: Place) -> Iterator[Row]:
    """How long each module takes to import, s, in this order and one process."""
    for name in MODULES:
        start = time.perf_counter()
        importlib.import_module(name)
        yield {"module": name, "seconds": round(time.perf_counter() - start, 2)}
