"""Checkpoints by PyTorch, as they were published: the reference for all that is made from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engines.backends.base import Items, TensorSpec
from engines.contract import Contract
from engines.errors import EngineError

if TYPE_CHECKING:
    from torch import nn


class TorchEngine:
    """A network of `engines.architectures` with a checkpoint's weights, on the GPU if there is one."""

    def __init__(
        self,
        contract: Contract,
        checkpoint: Path | None = None,
        threads: int = 1,
        *,
        network: nn.Module | None = None,
        device: str | None = None,
    ):
        """Load a checkpoint, or take a `network` that is there already.

        PyTorch has one number of threads a process, so the engine that was loaded last sets it for all.

        Raises:
            EngineError: PyTorch is not installed, or the checkpoint does not fit the contract's architecture.
        """
        try:
            import torch
        except ModuleNotFoundError:
            raise EngineError(
                "torch needs PyTorch, which is not installed: pip install 'posestream[torch]'"
            ) from None
        if network is None:
            from engines.checkpoints import load_weights

            if checkpoint is None:
                raise EngineError(f"{contract.name}: neither a checkpoint nor a network to run")
            network = load_weights(contract, checkpoint)
        torch.set_num_threads(threads)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._network: nn.Module | None = network.eval().to(self.device)
        self._names = {role: output.name for role, output in contract.outputs.items()}
        width, height = contract.input.size
        float32 = np.dtype(np.float32)
        self.inputs = {contract.input.name: TensorSpec((-1, 3, height, width), float32)}
        with torch.inference_mode():
            example = network(torch.zeros(1, 3, height, width, device=self.device))
        self.outputs = {
            name: TensorSpec((-1, *example[role].shape[1:]), float32) for role, name in self._names.items()
        }

    def run(self, inputs: Mapping[str, Items]) -> dict[str, np.ndarray]:
        """Run a batch: items (B, …) by input name to arrays (B, …) by output name."""
        import torch

        if self._network is None:
            raise EngineError("this engine was closed; load the model again")
        (batch,) = inputs.values()
        with torch.inference_mode():
            found = self._network(torch.from_numpy(np.asarray(batch)).to(self.device))
        return {name: found[role].float().cpu().numpy() for role, name in self._names.items()}

    def close(self) -> None:
        """Free the model's memory."""
        self._network = None
