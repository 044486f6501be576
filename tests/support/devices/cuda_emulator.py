"""This project's CUDA kernels, compiled for the CPU from their unchanged sources; see cuda_emulator.h."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from engines.kernels.nvrtc import SOURCES

HERE = Path(__file__).parent
LAUNCH = """
#include "cuda_emulator.h"
#include KERNEL_SOURCE
extern "C" void launch(const void* parameters, const unsigned* grid, const unsigned* block, int backwards) {
    emulate(KERNEL, parameters, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, backwards);
}
"""


class EmulatedKernel:
    """The counterpart of `engines.kernels.nvrtc.Kernel` on the CPU."""

    def __init__(self, launch, parameters: np.dtype):
        self._launch, self.parameters = launch, parameters

    def launch(self, grid, block, work: np.ndarray, stream: int, *, backwards: bool = False) -> None:
        assert work.dtype == self.parameters
        sizes = [(ctypes.c_uint * 3)(*size) for size in (grid, block)]
        self._launch(ctypes.c_void_p(work.ctypes.data), *sizes, ctypes.c_int(backwards))


def build(source: str, name: str, parameters: np.dtype, to: Path) -> None:
    """Compile C++ that includes `kernels/NAME.cu` to a shared library; without g++, the test is skipped."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    options = ["-std=c++17", "-O2", "-fPIC", "-shared", f"-DPARAMETER_BYTES={parameters.itemsize}"]
    options.append("-ffp-contract=off")  # as with NVRTC: a*b + c is rounded twice
    path = SOURCES / f"{name}.cu"
    defined = f'#define KERNEL {name}\n#define KERNEL_NAME "{name}"\n#define KERNEL_SOURCE "{path}"\n'
    subprocess.run(
        ["g++", *options, f"-I{HERE}", "-o", str(to), "-x", "c++", "-"],
        input=defined + source,
        text=True,
        check=True,
    )


@functools.cache
def emulated(name: str, parameters: np.dtype) -> EmulatedKernel:
    """The kernel `kernels/NAME.cu` on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / f"{name}.so"
        build(LAUNCH, name, parameters, library)
        return EmulatedKernel(ctypes.CDLL(str(library)).launch, parameters)


def build_driver(folder: Path, name: str, parameters: np.dtype) -> None:
    """Build a CUDA driver, libcuda.so.1, that can run this one kernel; see cuda_driver.cpp."""
    build('#include "cuda_driver.cpp"\n', name, parameters, folder / "libcuda.so.1")
