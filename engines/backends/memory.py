"""The device memory that an engine reads its inputs from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from engines.backends.base import Items, TensorSpec, on_device_like, put
from engines.device.transfers import StagingBuffers

if TYPE_CHECKING:
    from engines.device.streams import Device, Stream


class InputMemory:
    """Memory for a number of items of one input; its address never changes.

    Args:
        spec: of the input.
        rows: the number of items.
        device: to allocate on.
        stream: the first stream that writes to it.
    """

    def __init__(self, spec: TensorSpec, rows: int, device: Device, stream: Stream):
        self._spec, self._device = spec, device
        shape = (rows, *spec.shape[1:])
        size = math.prod(shape) * spec.dtype.itemsize
        memory = device.empty(size, stream)
        with stream.use():
            memory.zero_()  # the engine computes unfilled rows, too: they must be numbers
        self.tensor = memory.view(getattr(torch, spec.dtype.name)).view(shape)
        self._staging: StagingBuffers | None = None  # made when the first items come from the host

    def fill(self, items: Items, first: int, stop: int, stream: Stream) -> torch.Tensor:
        """Write the items from `first` up to `stop`, queued on a stream, and return the rows that hold them.

        Crops of images on a device are cut straight into this memory, and tensors are copied. Items in the
        host's memory go through page-locked memory; the host waits only until an earlier copy has left it.
        """
        rows = self.tensor[: stop - first]
        if not on_device_like(self._device.name, items):
            self._fill_from_host(items, first, rows, stream)
        elif isinstance(items, torch.Tensor):
            part = items[first:stop]
            self._device.copy(rows, part, stream)
            if part.device == rows.device:  # otherwise PyTorch itself keeps the tensor until it is copied
                stream.keep_alive(part)
        else:
            items.write_on_device(rows, stream, first)
        return rows

    def _fill_from_host(self, items: Items, first: int, rows: torch.Tensor, stream: Stream) -> None:
        if self._device.name == "cpu":
            put(items, rows.numpy(), first)
            return
        shape, dtype = tuple(rows.shape), self._spec.dtype

        def write(memory: torch.Tensor) -> None:
            put(items, memory.numpy().view(dtype).reshape(shape), first)

        self._staging = self._staging or StagingBuffers(self._device, limit=2)
        self._staging.upload(write, rows.view(-1).view(torch.uint8), stream)
