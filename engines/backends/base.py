"""The one interface behind which all backends run models, for what lies on the host and on a device alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

    from engines.device.streams import Stream


class TensorSpec(NamedTuple):
    """A tensor of the model's real graph; sizes that may vary are -1."""

    shape: tuple[int, ...]
    dtype: np.dtype


class MadeInPlace(Protocol):
    """A batch whose items are made where the engine wants them, as `engines.estimators.crops.Crops`."""

    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, …)."""
        ...

    @property
    def nbytes(self) -> int:
        """Of all items."""
        ...

    @property
    def device(self) -> str | None:
        """Where what they are made of lies: cpu and cuda:0 as torch's tensors, None as arrays of the host."""
        ...

    def write(self, out: np.ndarray, first: int = 0) -> None:
        """Write the items from `first` on to `out` (n, …), as many as have room there."""
        ...

    def write_on_device(self, out: torch.Tensor, stream: Stream, first: int = 0) -> None:
        """The same on a device, as part of a stream; the host does not wait."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> MadeInPlace: ...

    def __array__(self) -> np.ndarray: ...


Items = Any  # an np.ndarray, a MadeInPlace, or a torch.Tensor


def put(items: Items, out: np.ndarray, first: int = 0) -> None:
    """Write the items from `first` on to an engine's own memory `out` (n, …), as many as have room there."""
    if hasattr(items, "write"):
        items.write(out, first)
    else:
        np.copyto(out, host_array(items)[first : first + len(out)])


def host_array(items: Items) -> np.ndarray:
    """Items as an array of the host; what lies on a device is waited for."""
    return np.asarray(items.cpu() if hasattr(items, "cpu") else items)


def device_of(items: Items) -> str | None:
    """Where items lie, as torch names it (cpu, cuda:0); None for the host's own arrays."""
    if isinstance(items, np.ndarray):  # which calls itself on the "cpu", too
        return None
    device = getattr(items, "device", None)
    return None if device is None else str(device)


def on_devices_like(device: str, inputs: Mapping[str, Items]) -> bool:
    """Whether all inputs lie on a device of this one's kind: on a GPU, where it is one."""
    return all(on_device_like(device, items) for items in inputs.values())


def on_device_like(device: str, items: Items) -> bool:
    """Whether items lie on a device of this one's kind."""
    place = device_of(items)
    return place is not None and place.partition(":")[0] == device.partition(":")[0]


class Engine(Protocol):
    """A model that is ready to run, used by one thread at a time."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    device: str  # where it runs: cpu, cuda:0

    @property
    def halved(self) -> int:
        """How often it has halved its largest batch, since the device's memory was too small."""
        ...

    def run(self, inputs: Mapping[str, Items]) -> dict[str, Any]:
        """Run a batch: items by input name, first axis B, to arrays by output name, first axis B.

        Host in, host out: arrays, and `Crops` of images of the host, give arrays that belong to the caller.

        Device in, device out: tensors of PyTorch, and `Crops` of images that lie on a device, give tensors
        on the engine's device, and the host waits for nothing. They are ordered on this thread's stream
        (`engines.device.devices.thread_stream`): its later work may read them, other streams wait for an
        event of it. They hold until the next run of this engine, which overwrites them. An engine
        without memory on a device (LiteRT, ONNX Runtime) takes such items through the host, and gives arrays.

        A model whose graph is fixed to one item is run B times.
        """
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...
