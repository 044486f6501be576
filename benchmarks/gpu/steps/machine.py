"""The machine: its driver and libraries, and how long imports take."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator

from measuring.isolation import Row
from measuring.parts import NOT_RUN

from steps import Place

MODULES = ("numpy", "cv2", "torch", "av", "onnxruntime", "cuda.bindings.runtime", "operators", "pipeline.run")


def driver_and_libraries(place: Place) -> Iterator[Row]:
    """Versions of packages, the GPU and the driver; the driver's video decoder can be loaded.

    Raises:
        RuntimeError: CUDA's runtime finds no GPU.
        EngineError: the driver's video decoder cannot be loaded.
    """
    from engines.device.gpus import this_gpu
    from tools.profiling.machine.hardware import PACKAGES, installed_versions

    yield {"packages": installed_versions((*PACKAGES, "cuda-bindings", "cupy-cuda13x", "triton"))}
    gpu = None if place.dry else this_gpu()
    if gpu:
        import torch

        from operators.decoding.nvcuvid import load_nvcuvid

        load_nvcuvid()
        yield {**gpu._asdict(), "torch_cuda": torch.version.cuda, "torch_sees": torch.cuda.device_count()}
    elif place.dry:
        yield {NOT_RUN: "no GPU here"}
    else:
        raise RuntimeError("CUDA's runtime finds no GPU")


def imports(place: Place) -> Iterator[Row]:
    """How long each module takes to import, s, in this order and one process."""
    for name in MODULES:
        start = time.perf_counter()
        importlib.import_module(name)
        yield {"module": name, "seconds": round(time.perf_counter() - start, 2)}
