"""Kernels of our own: CUDA C, compiled once for a GPU's architecture, loaded once a process and device.

They are loaded into the primary context of the device, the one that PyTorch, TensorRT and FFmpeg share. A
kernel takes one structure by value, which the host fills in as a NumPy record: `numpy.dtype(…, align=True)`
lays it out as C does, and the kernel's source refuses to compile where its size is another one.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import EngineError
from engines.home import cache_home, write_atomically

if TYPE_CHECKING:
    import torch

SOURCES = Path(__file__).parent
# Without contractions a*b + c is rounded twice, as by NumPy and PyTorch: the same numbers everywhere.
OPTIONS = ("--std=c++17", "--fmad=false")

log = logging.getLogger("posestream.device")


class Kernel:
    """A kernel on a device, ready to be launched from any thread."""

    def __init__(self, name: str, device: int, parameters: np.dtype):
        """Load `kernels/NAME.cu`; `device` is CUDA's number of it.

        Raises:
            EngineError: it cannot be compiled or loaded here.
        """
        driver = _bindings("driver")
        _call(driver, "cuInit", 0)
        self.parameters = parameters
        self._driver, handle = driver, _call(driver, "cuDeviceGet", device)
        self._context = _call(driver, "cuDevicePrimaryCtxRetain", handle)  # for as long as the process lives
        attributes = driver.CUdevice_attribute
        major, minor = (
            _call(driver, "cuDeviceGetAttribute", which, handle)
            for which in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        cubin = compiled(name, f"sm_{major}{minor}", parameters.itemsize)
        _call(driver, "cuCtxPushCurrent", self._context)
        try:
            self._module = _call(driver, "cuModuleLoadData", cubin)
            self._function = _call(driver, "cuModuleGetFunction", self._module, name.encode())
        finally:
            _call(driver, "cuCtxPopCurrent")

    def launch(
        self, grid: tuple[int, int, int], block: tuple[int, int, int], given: np.ndarray, stream: int
    ) -> None:
        """Give it to a stream (its handle); the host does not wait.

        Args:
            grid: blocks along x, y and z.
            block: threads of a block, likewise.
            given: () of `parameters`; free for other use when this returns, since CUDA has copied it.
            stream: of this kernel's device.

        Raises:
            EngineError: CUDA refuses.
        """
        assert given.dtype == self.parameters
        pointers = np.array([given.ctypes.data], np.uintp)  # one for each argument of the kernel
        # A thread that has not used CUDA before has no context of its own.
        _call(self._driver, "cuCtxPushCurrent", self._context)
        try:
            sizes, arguments = (*grid, *block, 0), pointers.ctypes.data  # 0: no dynamic shared memory
            _call(self._driver, "cuLaunchKernel", self._function, *sizes, stream, arguments, 0)
        finally:
            _call(self._driver, "cuCtxPopCurrent")


def kernel_for(tensor: torch.Tensor, name: str, parameters: np.dtype) -> Kernel | None:
    """The kernel `kernels/NAME.cu` for the GPU that a tensor is on; None where it has to be done without."""
    return kernel(name, tensor.device.index, parameters) if tensor.is_cuda else None


@functools.cache
def kernel(name: str, device: int, parameters: np.dtype) -> Kernel | None:
    """The kernel `kernels/NAME.cu` on a CUDA device; None, with the reason in the log, where it cannot run.

    The first call in a process takes some milliseconds, and the first one ever on a machine, which compiles
    it, a few hundred.
    """
    try:
        return Kernel(name, device, parameters)
    except EngineError as error:
        log.warning("cuda:%d does without the kernel %s, which is slower: %s", device, name, error)
        return None


def compiled(name: str, architecture: str, parameter_bytes: int) -> bytes:
    """The machine code of `kernels/NAME.cu` for an architecture (sm_90), kept for the next start.

    Raises:
        EngineError: NVRTC is missing, does not know the architecture, or refuses the source.
    """
    nvrtc = _bindings("nvrtc")
    source = (SOURCES / f"{name}.cu").read_bytes()
    options = (*OPTIONS, f"--gpu-architecture={architecture}", f"-DPARAMETER_BYTES={parameter_bytes}")
    version = _call(nvrtc, "nvrtcVersion")
    key = hashlib.sha256(b"\0".join([source, repr((options, version)).encode()])).hexdigest()[:16]
    kept = cache_home() / "kernels" / f"{name}-{architecture}-{key}.cubin"
    try:
        return kept.read_bytes()
    except OSError:
        cubin = _compile(nvrtc, name, source, options)
    try:
        write_atomically(kept, cubin)
    except OSError as error:
        log.warning("cannot keep %s (%s); every start compiles it", kept, error.strerror)
    return cubin


def _compile(nvrtc: Any, name: str, source: bytes, options: tuple[str, ...]) -> bytes:
    program = _call(nvrtc, "nvrtcCreateProgram", source, f"{name}.cu".encode(), 0, [], [])
    try:
        arguments = [option.encode() for option in options]
        (error,) = nvrtc.nvrtcCompileProgram(program, len(arguments), arguments)
        if error:
            text = bytearray(_call(nvrtc, "nvrtcGetProgramLogSize", program))
            _call(nvrtc, "nvrtcGetProgramLog", program, text)
            reason = " ".join(text.rstrip(b"\0").decode(errors="replace").split())
            raise EngineError(f"NVRTC cannot compile {name}.cu with {options}: {reason or error.name}")
        cubin = bytearray(_call(nvrtc, "nvrtcGetCUBINSize", program))
        _call(nvrtc, "nvrtcGetCUBIN", program, cubin)
        return bytes(cubin)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _bindings(name: str) -> Any:
    """A module of NVIDIA's Python bindings: driver or nvrtc."""
    try:
        import cuda.bindings.driver
        import cuda.bindings.nvrtc
    except ImportError:
        raise EngineError("CUDA's bindings for Python are not installed: pip install cuda-bindings") from None
    return getattr(cuda.bindings, name)


def _call(library: Any, name: str, *arguments: Any) -> Any:
    """Call a function of CUDA's driver or of NVRTC; what it gives, if anything."""
    try:
        error, *given = getattr(library, name)(*arguments)
    except RuntimeError as missing:  # the bindings look for the library at the first call
        raise EngineError(f"{name}: {' '.join(str(missing).split())}") from None
    if error:
        raise EngineError(f"{name}: {error.name} (CUDA error {int(error)})")
    return given[0] if len(given) == 1 else given or None
