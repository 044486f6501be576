"""The same tests for arrays of NumPy and for tensors of PyTorch, in whose codecs the host never waits."""

import numpy as np
import pytest


class Arrays:
    """Outputs of models as NumPy's arrays, decoded on the host."""

    def place(self, outputs):
        return outputs

    def decode(self, codec, outputs, contract, *thresholds):
        return codec.decode(outputs, contract, *thresholds)


class Tensors:
    """The same as tensors of the CPU, reduced where they lie and finished on the host."""

    def __init__(self):
        from engines.device.devices import open_device

        self.device = open_device("cpu")
        self.stream = self.device.stream()

    def place(self, outputs):
        import torch

        return {
            role: torch.from_numpy(array) if isinstance(array, np.ndarray) else array
            for role, array in outputs.items()
        }

    def decode(self, codec, outputs, contract, *thresholds):
        from tests.no_waits import NoWaits

        given = (self.place(outputs), contract, *thresholds, *([self.stream] if thresholds else []))
        with NoWaits(lifts=True):  # test_reduce.py sees that they are of constants
            reduced = codec.reduce(*given)
        return codec.finish(self.device.download(reduced, self.stream), contract)


@pytest.fixture(params=["numpy", "torch"])
def arrays(request):
    return Arrays() if request.param == "numpy" else request.getfixturevalue("tensors")


@pytest.fixture
def tensors(monkeypatch):
    pytest.importorskip("torch")
    from engines.device import candidates
    from tests.no_waits import outside

    # Without its kernel suppression looks at its own result, as its docstring tells; only that may wait.
    monkeypatch.setattr(candidates, "suppress", outside(candidates.suppress))
    return Tensors()
