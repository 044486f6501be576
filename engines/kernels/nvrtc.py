"""Compile CUDA kernels with NVRTC, once for each architecture, and load and launch them.

Kernels are loaded once for each process and device, into the device's primary context, which PyTorch,
TensorRT and FFmpeg share. A kernel takes one structure by value. The host fills it in as a NumPy record:
`numpy.dtype(…, align=True)` has C's layout, and a `static_assert` in the source fails to compile if the sizes
differ. NVIDIA's `cuda-core` will not do here: its `launch` takes no structures by value (version 1.2).
"""

from __future__ import annotations

import functools
import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engines.device.cuda_bindings import call, library, primary_context
from engines.errors import EngineError, one_line
from engines.home import cache_home, write_atomically

if TYPE_CHECKING:
    import torch

SOURCES = Path(__file__).parent
# Without fused multiply-adds a*b + c is rounded twice, as NumPy and PyTorch do: the same numbers everywhere.
OPTIONS = ("--std=c++17", "--fmad=false")

log = logging.getLogger("posestream.device")


class Kernel:
    """A kernel that is loaded on a device; any thread may launch it."""

    def __init__(self, name: str, device: int, parameters: np.dtype):
        """Load `kernels/NAME.cu` on a device.

        Args:
            name: the name of the kernel and of its file.
            device: CUDA's number of the device.
            parameters: the layout of the structure that the kernel takes.

        Raises:
            EngineError: the kernel cannot be compiled or loaded here.
        """
        self.parameters, self._device = parameters, device
        attributes = library("driver").CUdevice_attribute
        with primary_context(device):
            handle = call("driver", "cuDeviceGet", device)
            major, minor = (
                call("driver", "cuDeviceGetAttribute", which, handle)
                for which in (
                    attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                    attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                )
            )
            cubin = load_cubin(name, f"sm_{major}{minor}", parameters.itemsize)
            self._module = call("driver", "cuModuleLoadData", cubin)
            self._function = call("driver", "cuModuleGetFunction", self._module, name.encode())
            # CUDA loads a kernel when it is first used, and may then wait until the device has finished all
            # other work (CUDA C++ Programming Guide, "Lazy Loading"). So load it now.
            call("driver", "cuFuncLoad", self._function)

    def launch(
        self, grid: tuple[int, int, int], block: tuple[int, int, int], work: np.ndarray, stream: int
    ) -> None:
        """Queue the kernel on a stream; the host does not wait.

        Args:
            grid: blocks along x, y and z.
            block: threads of a block along x, y and z.
            work: () of `parameters`; CUDA copies it, so the caller may change it when this returns.
            stream: the handle of a stream of this kernel's device.

        Raises:
            EngineError: CUDA refuses the launch.
        """
        assert work.dtype == self.parameters
        pointers = np.array([work.ctypes.data], np.uintp)  # one for each argument of the kernel
        sizes, arguments = (*grid, *block, 0), pointers.ctypes.data  # 0: no dynamic shared memory
        with primary_context(self._device):
            call("driver", "cuLaunchKernel", self._function, *sizes, stream, arguments, 0)


def kernel_for(tensor: torch.Tensor, name: str, parameters: np.dtype) -> Kernel | None:
    """The kernel `kernels/NAME.cu` on the tensor's GPU; None on the CPU, or where the kernel cannot run."""
    return kernel(name, tensor.device.index, parameters) if tensor.is_cuda else None


@functools.cache
def kernel(name: str, device: int, parameters: np.dtype) -> Kernel | None:
    """The kernel `kernels/NAME.cu` on a CUDA device; None where it cannot run, and the log says why.

    The first call in a process takes some milliseconds. The first call ever on a machine compiles the kernel
    and takes a few hundred.
    """
    try:
        return Kernel(name, device, parameters)
    except EngineError as error:
        log.warning("cuda:%d runs without the kernel %s, which is slower: %s", device, name, error)
        return None


def load_cubin(name: str, architecture: str, parameter_bytes: int) -> bytes:
    """The machine code of `kernels/NAME.cu` for an architecture (sm_90), from the cache or compiled.

    Raises:
        EngineError: NVRTC is missing, does not know the architecture, or refuses the source.
    """
    source = (SOURCES / f"{name}.cu").read_bytes()
    options = (*OPTIONS, f"--gpu-architecture={architecture}", f"-DPARAMETER_BYTES={parameter_bytes}")
    version = call("nvrtc", "nvrtcVersion")
    key = hashlib.sha256(b"\0".join([source, repr((options, version)).encode()])).hexdigest()[:16]
    cached = cache_home() / "kernels" / f"{name}-{architecture}-{key}.cubin"
    try:
        return cached.read_bytes()
    except OSError:
        cubin = _compile(name, source, options)
    try:
        write_atomically(cached, cubin)
    except OSError as error:
        log.warning("cannot write %s (%s); every start compiles it again", cached, error.strerror)
    return cubin


def _compile(name: str, source: bytes, options: tuple[str, ...]) -> bytes:
    nvrtc = library("nvrtc")
    program = call("nvrtc", "nvrtcCreateProgram", source, f"{name}.cu".encode(), 0, [], [])
    try:
        arguments = [option.encode() for option in options]
        (error,) = nvrtc.nvrtcCompileProgram(program, len(arguments), arguments)
        if error:
            text = bytearray(call("nvrtc", "nvrtcGetProgramLogSize", program))
            call("nvrtc", "nvrtcGetProgramLog", program, text)
            reason = one_line(text.rstrip(b"\0").decode(errors="replace"))
            raise EngineError(f"NVRTC cannot compile {name}.cu with {options}: {reason or error.name}")
        cubin = bytearray(call("nvrtc", "nvrtcGetCUBINSize", program))
        call("nvrtc", "nvrtcGetCUBIN", program, cubin)
        return bytes(cubin)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
