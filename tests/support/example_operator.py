"""The example operator in docs/operators, imported as posestream imports a user's own operator."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import numpy as np

from engines.device.devices import thread_stream
from tests.support.devices import cuda_emulator

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "operators"

sys.path.insert(0, str(EXAMPLE))
try:
    import blur_heads
finally:
    sys.path.remove(str(EXAMPLE))


def emulated_kernel():
    """The example's kernel on the CPU."""
    with mock.patch.object(cuda_emulator, "SOURCES", EXAMPLE):
        return cuda_emulator.emulated("blur_heads", blur_heads.PARAMETERS)


class EmulatedBlur:
    """The counterpart of the example's `PycudaKernel` on PyTorch's CPU device."""

    def __init__(self, device):
        self.stream = thread_stream(device)
        self._kernel = emulated_kernel()

    def views(self, planes):
        return [np.from_dlpack(plane).__array_interface__ for plane in planes]

    def launch(self, grid, block, work):
        self._kernel.launch(grid, block, work, self.stream.handle)
