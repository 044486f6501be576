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


def build(to: Path, source: str, defined: dict[str, object], *libraries: str) -> None:
    """Compile C++ to a shared library; without g++, the test is skipped."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    options = ["-std=c++17", "-O2", "-fPIC", "-shared", f"-Wl,-soname,{to.name}", f"-L{to.parent}"]
    options.append("-ffp-contract=off")  # as with NVRTC: a*b + c is rounded twice
    options += [f"-D{name}={value}" for name, value in defined.items()]
    subprocess.run(
        ["g++", *options, f"-I{HERE}", "-o", str(to), "-x", "c++", "-", *libraries],
        input=source,
        text=True,
        check=True,
    )


@functools.cache
def emulated(name: str, parameters: np.dtype) -> EmulatedKernel:
    """The kernel `kernels/NAME.cu` on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / f"{name}.so"
        path = SOURCES / f"{name}.cu"
        defined = {"KERNEL": name, "KERNEL_SOURCE": f'"{path}"', "PARAMETER_BYTES": parameters.itemsize}
        build(library, LAUNCH, defined)
        return EmulatedKernel(ctypes.CDLL(str(library)).launch, parameters)
