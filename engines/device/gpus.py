"""The GPUs of this machine, by CUDA's numbers: those that CUDA_VISIBLE_DEVICES leaves visible, from 0."""

from __future__ import annotations

import functools
from typing import NamedTuple

from engines.device.cuda_bindings import library


class Gpu(NamedTuple):
    """The properties of a GPU and its driver on which a compiled engine depends."""

    name: str
    compute_capability: str  # 8.9
    driver: str  # 580.65.06


@functools.cache
def this_gpu(index: int = 0) -> Gpu | None:
    """A GPU of this machine, by default the first; None if there is no such GPU, or no driver.

    Raises:
        EngineError: NVIDIA's bindings for Python are not installed.
    """
    cudart = library("runtime")
    error, count = cudart.cudaGetDeviceCount()
    if error or index >= count:
        return None
    _, properties = cudart.cudaGetDeviceProperties(index)
    capability = f"{properties.major}.{properties.minor}"
    return Gpu(properties.name.rstrip(b"\0").decode(), capability, _driver_version())


def _driver_version() -> str:
    """The driver's version; the CUDA version that it supports where NVML is missing, as on some boards."""
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError:
        pynvml = None
    if pynvml is not None:
        try:
            pynvml.nvmlInit()
            return str(pynvml.nvmlSystemGetDriverVersion())
        except pynvml.NVMLError:
            pass
    _, cuda = library("runtime").cudaDriverGetVersion()
    return f"CUDA {cuda // 1000}.{cuda % 1000 // 10}"
