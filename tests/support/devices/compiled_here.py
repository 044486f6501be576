"""Whether a flavour of TensorRT can build plans for the GPU of this machine."""

from __future__ import annotations

import pytest

from engines.device.gpus import this_gpu
from engines.errors import EngineError
from engines.tensorrt.flavours import flavour


def skip_unless_built_here(name: str) -> None:
    """Skip the test if the flavour is not installed, or there is no GPU, or one that it does not know."""
    pytest.importorskip(name.replace("-", "_"))
    gpu = this_gpu()
    if gpu is None:
        pytest.skip("no CUDA device")
    try:
        flavour(name).check_target(gpu.compute_capability, gpu)
    except EngineError as error:  # TensorRT for RTX knows only some GPUs
        pytest.skip(str(error))
