"""A CUDA kernel of your own, compiled and launched by pycuda or by CuPy.

Both classes have the same methods. The libraries are imported when a kernel is made, so the file can be
imported without them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.device.devices import thread_stream
from engines.device.streams import Device
from engines.errors import EngineError

FOLDER = Path(__file__).parent
OPTIONS = ["--std=c++17"]

# PyTorch may ask about a stream long after its last use, so streams of pycuda live as long as the process.
_streams: list[Any] = []


class PycudaKernel:
    """A kernel launched by pycuda, in the device's primary context, which PyTorch and FFmpeg use, too.

    pycuda launches only on streams that it has made. So this makes one, and posestream's own work for this
    kernel (waiting for the frame, copying it, the events afterwards) goes to that stream.

    Args:
        name: of the kernel, and of its file NAME.cu beside this file.
        parameter_bytes: the size of the one structure that it takes.
        device: the GPU.

    Raises:
        EngineError: pycuda is not installed.
    """

    def __init__(self, name: str, parameter_bytes: int, device: Device):
        try:
            import pycuda.driver as cuda
            from pycuda.compiler import SourceModule
        except ImportError as error:
            raise EngineError(
                f"pycuda cannot be used ({error}); see docs/gpu-operators.md, or set library: cupy"
            ) from None
        import torch

        from engines.device.cuda import CudaDevice, CudaStream

        assert isinstance(device, CudaDevice)
        torch.cuda.init()
        cuda.init()
        self._context = cuda.Device(device.torch_device.index).retain_primary_context()
        with self._current():
            self._stream = cuda.Stream(1)  # CU_STREAM_NON_BLOCKING: independent of the default stream
            options = [*OPTIONS, f"-DPARAMETER_BYTES={parameter_bytes}"]
            source = (FOLDER / f"{name}.cu").read_text(encoding="utf-8")
            self._module = SourceModule(source, options=options, no_extern_c=True)
            self._function = self._module.get_function(name)
        _streams.append(self._stream)
        self.stream = CudaStream(device, torch.cuda.ExternalStream(self._stream.handle, device.torch_device))

    def views(self, planes: Sequence[Any]) -> list[dict]:
        """The array interfaces of planes: pycuda needs only their addresses."""
        return [plane.__cuda_array_interface__ for plane in planes]

    def launch(self, grid: tuple[int, int, int], block: tuple[int, int, int], work: np.ndarray) -> None:
        """Queue the kernel on `stream`; `work` () is copied, and the host does not wait."""
        with self._current():
            self._function(work[()], grid=grid, block=block, stream=self._stream)  # a record goes by value

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        """Inside, the primary context is current in this thread."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()


class CupyKernel:
    """The same with CuPy, which launches on any stream: on this thread's own."""

    def __init__(self, name: str, parameter_bytes: int, device: Device):
        try:
            import cupy
        except ImportError as error:
            raise EngineError(
                f"CuPy cannot be used ({error}); pip install cupy-cuda13x, or set library: pycuda"
            ) from None
        self._cupy = cupy
        self._device = cupy.cuda.Device(device.torch_device.index)
        self.stream = thread_stream(device)
        self._stream = cupy.cuda.ExternalStream(self.stream.handle, self._device.id)
        options = (*OPTIONS, f"-DPARAMETER_BYTES={parameter_bytes}")
        self._kernel = cupy.RawKernel((FOLDER / f"{name}.cu").read_text(encoding="utf-8"), name, options)

    def views(self, planes: Sequence[Any]) -> list[dict]:
        """The array interfaces of planes as CuPy's arrays; `cupy.asarray` would make the host wait here."""
        with self._device, self._stream:
            arrays = [self._cupy.from_dlpack(plane) for plane in planes]
            return [array.__cuda_array_interface__ for array in arrays]

    def launch(self, grid: tuple[int, int, int], block: tuple[int, int, int], work: np.ndarray) -> None:
        """Queue the kernel on `stream`; `work` () is copied, and the host does not wait."""
        with self._device, self._stream:
            self._kernel(grid, block, (work,))  # CuPy passes an array of size one by value
