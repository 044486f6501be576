"""Runs the tests of codecs with NumPy arrays and with PyTorch tensors; for tensors the host must never wait."""

import numpy as np
import pytest

from engines.codecs.base import DetectionRequest


class Arrays:
    """Model outputs as NumPy arrays, decoded on the host."""

    def place(self, outputs):
        return outputs

    def decode(self, contract, outputs, min_score=None, nms_iou=None):
        """Read outputs with the contract's codec; thresholds are given for a detector only."""
        return decoded(contract, outputs, min_score, nms_iou)


class Tensors:
    """Model outputs as tensors on the CPU, reduced as tensors and finished on the host."""

    def __init__(self):
        from engines.device.devices import open_device

        self.device = open_device("cpu")
        self.stream = self.device.new_stream()

    def place(self, outputs):
        import torch

        return {
            role: torch.from_numpy(array) if isinstance(array, np.ndarray) else array
            for role, array in outputs.items()
        }

    def decode(self, contract, outputs, min_score=None, nms_iou=None):
        from tests.support.devices.no_waits import NoWaits

        def reduce(*given):
            # test_reduce_on_device.py checks that only constants are copied to the device.
            with NoWaits(lifts=True):
                reduced = contract.codec.reduce(*given)
            return self.device.download(reduced, self.stream)

        return decoded(contract, self.place(outputs), min_score, nms_iou, reduce, self.stream)


def decoded(contract, outputs, min_score, nms_iou, reduce=None, stream=None):
    codec, reduce = contract.codec, reduce or contract.codec.reduce
    if min_score is None:
        return codec.finish(reduce(outputs), contract.input.size)
    request = DetectionRequest(contract.sizes(), min_score, nms_iou, stream)
    return codec.finish(reduce(outputs, request), nms_iou)


@pytest.fixture(params=["on_host", "tensors"], ids=["numpy", "torch"])
def arrays(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def on_host():
    return Arrays()


@pytest.fixture
def tensors():
    pytest.importorskip("torch")
    return Tensors()
