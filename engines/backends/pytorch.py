"""Checkpoints as published, run by PyTorch: the reference for everything that is made from them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engines.backends.base import Items, TensorSpec, on_devices_like
from engines.backends.batches import Batches, Outputs, empty_shape, join, stream_behind
from engines.contracts.contract import Contract
from engines.device.devices import open_device, thread_stream
from engines.device.streams import Device, Stream
from engines.errors import EngineError

if TYPE_CHECKING:
    from torch import nn

    from engines.backends.memory import InputMemory


class TorchEngine:
    """A network of `engines.architectures` with a checkpoint's weights.

    It runs on the stream of the calling thread. Input memory is allocated once for each batch size;
    outputs are new tensors each time.
    """

    def __init__(
        self,
        contract: Contract,
        checkpoint: Path | None = None,
        threads: int = 1,
        *,
        network: nn.Module | None = None,
        device: str = "cpu",
    ):
        """Load a checkpoint, or take a `network` that was built already.

        PyTorch has one number of threads for the process, so the engine that is loaded last sets it for all.

        Raises:
            EngineError: PyTorch is not installed, there is no such device, or the checkpoint does not fit the
                contract's architecture.
        """
        try:
            import torch
        except ModuleNotFoundError:
            raise EngineError(
                "torch needs PyTorch, which is not installed: pip install 'posestream[torch]'"
            ) from None
        if network is None:
            from engines.architectures.checkpoints import load_weights

            if checkpoint is None:
                raise EngineError(f"{contract.name}: neither a checkpoint nor a network to run")
            network = load_weights(contract, checkpoint)
        torch.set_num_threads(threads)
        self._device: Device = open_device(device)
        self.device = self._device.name
        self._names = {role: output.name for role, output in contract.outputs.items()}
        width, height = contract.input.size
        float32 = np.dtype(np.float32)
        self.inputs = {contract.input.name: TensorSpec((-1, 3, height, width), float32)}
        self._stream = thread_stream(self._device)
        with torch.no_grad(), self._stream.use():
            self._network: nn.Module | None = network.eval().to(self._device.torch_device)
            example = network(torch.zeros(1, 3, height, width, device=self._device.torch_device))
        self._stream.record().synchronise()  # other threads may run the same network on their streams
        self.outputs = {
            name: TensorSpec((-1, *example[role].shape[1:]), float32) for role, name in self._names.items()
        }
        self._memory: dict[int, InputMemory] = {}  # by rows
        self._batches = Batches(contract.name, self._shrink)

    @property
    def halved(self) -> int:
        """How often the largest batch was halved because the device's memory was too small."""
        return self._batches.halved

    def run(self, inputs: Mapping[str, Items]) -> Outputs:
        """Run a batch: items (B, …) by input name to arrays or tensors (B, …) by output name.

        Raises:
            EngineError: the device's memory is too small even for a batch of one.
        """
        import torch

        if self._network is None:
            raise EngineError("this engine was closed; load the model again")
        (items,) = inputs.values()
        on_device = on_devices_like(self.device, inputs)
        stream = self._stream = stream_behind(self._stream, self._device)
        # Not inference_mode: the caller could not write to such tensors.
        with torch.no_grad(), stream.use():
            parts = self._batches.run(len(items), partial(self._run_part, items, stream, on_device))
            if parts or not on_device:
                return join(parts, self.outputs)
            empty = partial(torch.empty, device=self._device.torch_device)
            return {name: empty(empty_shape(spec)) for name, spec in self.outputs.items()}

    def close(self) -> None:
        """Free the model's memory."""
        if self._network is not None:
            self._stream.record().synchronise()
        self._network = None
        self._memory.clear()

    def _run_part(self, items: Items, stream: Stream, on_device: bool, start: int, stop: int) -> Outputs:
        assert self._network is not None  # `run` has checked it
        batch = self._input(self._batches.bucket(stop - start), stream).fill(items, start, stop, stream)
        found = self._network(batch)
        outputs = {name: found[role].float() for role, name in self._names.items()}
        return outputs if on_device else self._device.download(outputs, stream)

    def _input(self, rows: int, stream: Stream) -> InputMemory:
        from engines.backends.memory import InputMemory

        if rows not in self._memory:
            (spec,) = self.inputs.values()
            self._memory[rows] = InputMemory(spec, rows, self._device, stream)
        return self._memory[rows]

    def _shrink(self, largest: int) -> None:
        """Free the memory of larger batches."""
        import torch

        self._memory = {rows: memory for rows, memory in self._memory.items() if rows <= largest}
        torch.cuda.empty_cache()
