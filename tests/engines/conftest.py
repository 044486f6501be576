"""The same tests for arrays of NumPy and for tensors of PyTorch, in whose codecs the host never waits."""

import numpy as np
import pytest

from engines.codecs import detections


class Arrays:
    """Outputs of models as NumPy's arrays, decoded on the host."""

    def place(self, outputs):
        return outputs

    def decode(self, codec, outputs, contract, *thresholds):
        return finished(codec, codec.reduce(outputs, contract, *thresholds), contract, *thresholds)


class Tensors:
    """The same as tensors of the CPU, reduced where they lie and finished on the host."""

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

    def decode(self, codec, outputs, contract, *thresholds):
        from tests.support.no_waits import NoWaits

        given = (self.place(outputs), contract, *thresholds, *([self.stream] if thresholds else []))
        with NoWaits(lifts=True):  # test_reduce.py sees that they are of constants
            reduced = codec.reduce(*given)
        return finished(codec, self.device.download(reduced, self.stream), contract, *thresholds)


def finished(codec, reduced, contract, *thresholds):
    """A detector's codec has thresholds, and none a `finish` of its own."""
    return detections.finish(reduced, thresholds[1]) if thresholds else codec.finish(reduced, contract)


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
