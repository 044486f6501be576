"""The GPUs that engines run on, by CUDA's numbers, among those that CUDA_VISIBLE_DEVICES leaves."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from engines.errors import EngineError


class Gpu(NamedTuple):
    """What a compiled engine depends on, of the machine that it runs on."""

    name: str
    compute_capability: str  # 8.9
    driver: str  # 580.65.06


@functools.cache
def this_gpu(index: int = 0) -> Gpu | None:
    """A GPU of this machine, the first unless told; None without it, or without its driver.

    Raises:
        EngineError: the library to ask with is not installed.
    """
    cudart = runtime()
    error, count = cudart.cudaGetDeviceCount()
    if error or index >= count:
        return None
    _, properties = cudart.cudaGetDeviceProperties(index)
    capability = f"{properties.major}.{properties.minor}"
    return Gpu(properties.name.rstrip(b"\0").decode(), capability, _driver())


def runtime():  # type: ignore[no-untyped-def]  # modules have no type of their own
    """The CUDA runtime as NVIDIA binds it to Python; PyTorch uses the same, and the same context.

    Raises:
        EngineError: it is not installed.
    """
    try:
        from cuda.bindings import runtime as cudart  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise EngineError(
            "a GPU needs CUDA's bindings for Python, which are not installed: pip install cuda-bindings"
        ) from None
    return cudart


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime; what it gives, if anything.

    Raises:
        EngineError: CUDA refuses, with its reason.
    """
    cudart = runtime()
    error, *given = getattr(cudart, name)(*arguments)
    if error:
        _, reason = cudart.cudaGetErrorString(error)
        raise EngineError(f"{name}: {reason.decode()} (CUDA error {int(error)})")
    return given[0] if given else None


def _driver() -> str:
    """The driver's version; of its CUDA alone where the management library is missing, as on some boards."""
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
    _, cuda = runtime().cudaDriverGetVersion()
    return f"CUDA {cuda // 1000}.{cuda % 1000 // 10}"
