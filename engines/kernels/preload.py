"""Load all kernels of a device before frames flow."""

from __future__ import annotations

from importlib.util import find_spec

from engines.device.names import parse_device


def load_kernels(device: str) -> None:
    """Load the kernels on a GPU, cuda:0; on the CPU there are none.

    To load a kernel, CUDA may wait until the device has finished all other work. At its first use, that would
    stop all streams for a moment. Without PyTorch no frames lie on a GPU, and no kernels are needed.
    """
    if device == "cpu" or find_spec("torch") is None:
        return
    from engines.kernels import crop, nms
    from engines.kernels.nvrtc import kernel

    for name, parameters in (("crop", crop.PARAMETERS), ("nms", nms.PARAMETERS)):
        kernel(name, parse_device(device).number, parameters)
