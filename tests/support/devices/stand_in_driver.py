"""Run functions of a test in a process that has the stand-in driver, cuda_driver.cpp and nvcuvid.cpp, as NVIDIA's."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engines.kernels import crop, nms
from engines.kernels.nvrtc import SOURCES
from tests.support.devices.cuda_emulator import build

PATH = "LD_LIBRARY_PATH"


@functools.cache
def build_driver() -> tempfile.TemporaryDirectory:
    """Build the driver once a session. Returns its folder."""
    if sys.platform != "linux":
        pytest.skip("the stand-in driver is built as libraries of Linux")
    folder = tempfile.TemporaryDirectory(prefix="stand-in-driver-")
    defined = {
        f"{kernel.upper()}_{what}": value
        for kernel, parameters in (("crop", crop.PARAMETERS), ("nms", nms.PARAMETERS))
        for what, value in (("BYTES", parameters.itemsize), ("SOURCE", f'"{SOURCES / kernel}.cu"'))
    }
    cuda, video = (Path(folder.name, name) for name in ("libcuda.so.1", "libnvcuvid.so.1"))
    build(cuda, '#include "cuda_driver.cpp"\n', defined)
    build(video, '#include "nvcuvid.cpp"\n', {}, f"-l:{cuda.name}")
    return folder


@contextmanager
def process_with_driver(*, on_path: bool = True) -> Iterator[Callable[..., Any]]:
    """A function that runs another one, with its arguments, in one further process, and gives its result.

    Args:
        on_path: whether the loader finds the driver; if not, the process loads libcuda only, by its path.
    """
    folder = build_driver().name
    before = os.environ.get(PATH, "")
    with pytest.MonkeyPatch.context() as patch:
        if on_path:
            patch.setenv(PATH, f"{folder}:{before}")
        # Not `fork`: the loader reads the path when a process starts.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:

            def run(function: Callable[..., Any], *arguments: Any) -> Any:
                return pool.submit(function, *arguments).result()

            if not on_path:
                run(_load, f"{folder}/libcuda.so.1")
            yield run


def _load(library: str) -> None:
    ctypes.CDLL(library)


class Driver:
    """What the stand-in driver of this process has noted."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._library.stand_in_faults.restype = ctypes.c_char_p
        self._library.stand_in_counted.restype = self._library.stand_in_bytes.restype = ctypes.c_long

    def calls(self, function: str) -> int:
        """How often a function was called."""
        return self._library.stand_in_counted(function.encode())

    @property
    def faults(self) -> list[str]:
        """What should not have happened."""
        return self._library.stand_in_faults().decode().splitlines()

    @property
    def bytes(self) -> int:
        """The size of all memory that is allocated."""
        return self._library.stand_in_bytes()

    @property
    def contexts(self) -> int:
        """The depth of this thread's stack of contexts."""
        return self._library.stand_in_depth()

    @property
    def capture_mode(self) -> int:
        """CUDA's number of this thread's mode towards recordings of other threads."""
        return self._library.stand_in_capture_mode()
