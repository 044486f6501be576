"""The models as networks of PyTorch, with trained or random weights, in FP32 or FP16, plain or compiled.

The product's backend `torch` runs checkpoints in FP32. Here its engine gets a network instead. So nothing has
to be exported or written to a file, and a benchmark can choose the precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

from engines.backends.batches import BUCKETS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from engines.backends.base import Engine
    from engines.contracts.contract import Contract

SEED = 0
PLAIN, HALF, COMPILED = "torch", "torch, FP16", "torch.compile"  # the last in FP16; on the CPU all are FP32
WAYS = (PLAIN, HALF, COMPILED)


def network_of(contract: Contract, *, trained: bool) -> nn.Module:
    """The network of a contract, on the CPU: with its checkpoint's weights, or with random ones.

    Raises:
        AssetError: the checkpoint is not on this machine.
        EngineError: PyTorch is missing, or the checkpoint does not fit.
    """
    if trained:
        from engines.architectures.checkpoints import load_weights
        from engines.assets.store import locate

        return load_weights(contract, locate(contract.asset, name=contract.name))
    from engines.conversion.export import random_network

    return random_network(contract, SEED)


def torch_engine(contract: Contract, way: str, device: str, *, trained: bool) -> Engine:
    """An engine of the backend `torch` that runs the model in one of `WAYS`.

    Raises:
        AssetError, EngineError: as `network_of`; or there is no such device.
    """
    from engines.backends.pytorch import TorchEngine

    network = network_of(contract, trained=trained)
    if way != PLAIN:
        on_cpu = device == "cpu"
        rows = 0 if way != COMPILED else 1 if on_cpu else BUCKETS[-1]
        network = in_half(network, half=not on_cpu, rows=rows)
    return TorchEngine(contract, network=network, device=device)


def in_half(network: nn.Module, *, half: bool, rows: int) -> nn.Module:
    """The network computing in FP16, if `half`; compiled for batches of `rows`, if that is not 0.

    It takes batches of any size. Those that are smaller than `rows` are filled up with zeros, because each
    size is compiled separately, which takes half a minute.
    """
    import torch

    dtype = torch.float16 if half else torch.float32

    class Converted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network.to(dtype=dtype, memory_format=torch.channels_last)
            self._run = compiled(self.network, on_cpu=not half, graphs=False) if rows else self.network

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            count = len(image)
            if count < rows:
                image = torch.nn.functional.pad(image, (0, 0, 0, 0, 0, 0, 0, rows - count))
            found = self._run(image.to(dtype).contiguous(memory_format=torch.channels_last))
            return {role: output[:count] for role, output in found.items()}

    return Converted()


def compiled(network: nn.Module, *, on_cpu: bool, graphs: bool) -> Any:
    """The network by torch.compile, with CUDA graphs if `graphs`; on the CPU it is traced, but not compiled.

    PyTorch's own CUDA graphs work in a process's main thread only, so stages cannot use them.
    """
    import torch

    if on_cpu:
        return torch.compile(network, backend="eager", dynamic=False)
    return torch.compile(network, mode="reduce-overhead" if graphs else "default", dynamic=False)


@contextmanager
def in_operators(ways: dict[str, tuple[str, bool]]) -> Iterator[None]:
    """Inside, `detect` and `pose` get engines of `torch_engine` for some models.

    Args:
        ways: by the model's name: one of `WAYS`, and whether its weights are trained.
    """
    import operators.detect
    import operators.pose

    def load(others: Any, contract: Contract, *, device: str | None = None, **more: Any) -> Engine:
        if contract.name not in ways:
            return others(contract, device=device, **more)
        way, trained = ways[contract.name]
        return torch_engine(contract, way, device or "cpu", trained=trained)

    with ExitStack() as stack:
        for module in (operators.detect, operators.pose):
            stack.enter_context(mock.patch.object(module, "load_engine", partial(load, module.load_engine)))
        yield
