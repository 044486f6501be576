"""NVIDIA's Python bindings of the CUDA driver, the CUDA runtime and NVRTC, and one way to call them."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any, Literal

from engines.errors import EngineError, one_line

Library = Literal["driver", "runtime", "nvrtc"]


@functools.cache
def library(name: Library) -> Any:
    """The module `cuda.bindings.NAME`. Its calls use the device's primary context, as PyTorch's do.

    Raises:
        EngineError: the bindings are not installed.
    """
    try:
        return importlib.import_module(f"cuda.bindings.{name}")
    except ImportError:
        raise EngineError(
            "a GPU needs CUDA's bindings for Python, which are not installed: pip install cuda-bindings"
        ) from None


def call(name: Library, function: str, *arguments: Any) -> Any:
    """Call a function of a CUDA library and return its result: None, one value, or a list of several.

    Raises:
        EngineError: the bindings or the library are not installed, or the function returned an error.
    """
    bindings = library(name)
    try:
        error, *results = getattr(bindings, function)(*arguments)
    except RuntimeError as missing:  # the bindings load the library at the first call
        raise EngineError(f"{function}: {one_line(missing)}") from None
    if error:
        reason = bindings.cudaGetErrorString(error)[1].decode() if name == "runtime" else error.name
        raise EngineError(f"{function}: {reason} (CUDA error {int(error)})")
    return results[0] if len(results) == 1 else results or None


@contextlib.contextmanager
def primary_context(index: int) -> Iterator[None]:
    """Inside, the primary context of GPU `index` is this thread's current one; then the one before is again.

    A thread that has not used CUDA before has no current context.

    Raises:
        EngineError: as `call`, or there is no such GPU.
    """
    call("driver", "cuCtxPushCurrent", _primary_context(index))
    try:
        yield
    finally:
        call("driver", "cuCtxPopCurrent")


@functools.cache
def _primary_context(index: int) -> Any:
    """The handle of a GPU's primary context. It is never released: kernels and decoders live in it."""
    call("driver", "cuInit", 0)
    return call("driver", "cuDevicePrimaryCtxRetain", call("driver", "cuDeviceGet", index))
