"""CUDA memory and streams, on the primary context of the device, which PyTorch uses too."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from engines.errors import EngineError
from engines.gpu import runtime


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


class Stream:
    """Work that the device does in order, beside that of other streams."""

    def __init__(self) -> None:
        # Without the flag it would wait for the legacy default stream, which any library may use.
        self.handle = int(call("cudaStreamCreateWithFlags", runtime().cudaStreamNonBlocking))

    def synchronise(self) -> None:
        """Wait, on the host, for all that was given to it."""
        call("cudaStreamSynchronize", self.handle)

    def close(self) -> None:
        """Give it back, once its work is done."""
        call("cudaStreamDestroy", self.handle)


class Buffer:
    """Memory of one size on the device and, page-locked so that copies run beside other work, on the host."""

    def __init__(self, size: int):
        self.size = size
        self.device = int(call("cudaMalloc", size))
        self._address = int(call("cudaHostAlloc", size, runtime().cudaHostAllocDefault))
        self._bytes = (ctypes.c_byte * size).from_address(self._address)

    def host(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The host's memory, from its start, as an array; valid until the next use."""
        return np.ndarray(shape, dtype, memoryview(self._bytes))

    def upload(self, array: np.ndarray, stream: Stream) -> None:
        """Copy an array to the device, as part of a stream."""
        np.copyto(self.host(array.shape, array.dtype), array)
        kind = runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        call("cudaMemcpyAsync", self.device, self._address, array.nbytes, kind, stream.handle)

    def download(self, size: int, stream: Stream) -> None:
        """Copy from the device to the host, as part of a stream."""
        kind = runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        call("cudaMemcpyAsync", self._address, self.device, size, kind, stream.handle)

    def close(self) -> None:
        """Give it back; no stream may use it any more."""
        call("cudaFree", self.device)
        call("cudaFreeHost", self._address)
