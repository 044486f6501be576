"""The interface of all backends, for inputs in the host's memory and on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from engines.device.names import same_kind

if TYPE_CHECKING:
    import torch

    from engines.device.streams import Stream


class TensorSpec(NamedTuple):
    """A tensor of the model's real graph; a size that may vary is -1."""

    shape: tuple[int, ...]
    dtype: np.dtype


class MadeInPlace(Protocol):
    """A batch that writes its items straight into an engine's memory: `engines.estimators.crops.Crops`."""

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
        """Where the images lie that items are made of: cpu or cuda:0 for tensors, None for NumPy arrays."""
        ...

    def write(self, out: np.ndarray, first: int = 0) -> None:
        """Write the items from `first` on to `out` (n, …), as many as fit."""
        ...

    def write_on_device(self, out: torch.Tensor, stream: Stream, first: int = 0) -> None:
        """The same to memory of a device, queued on a stream; the host does not wait."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> MadeInPlace: ...

    def __array__(self) -> np.ndarray: ...


Items = Any  # an np.ndarray, a MadeInPlace, or a torch.Tensor


def put(items: Items, out: np.ndarray, first: int = 0) -> None:
    """Write the items from `first` on to an engine's memory `out` (n, …), as many as fit."""
    if hasattr(items, "write"):
        items.write(out, first)
    else:
        np.copyto(out, host_array(items)[first : first + len(out)])


def host_array(items: Items) -> np.ndarray:
    """Items as a NumPy array; waits for items that lie on a device."""
    return np.asarray(items.cpu() if hasattr(items, "cpu") else items)


def device_of(items: Items) -> str | None:
    """Where items lie, as PyTorch names it (cpu, cuda:0); None for NumPy arrays."""
    if isinstance(items, np.ndarray):  # whose own `device` is "cpu", too
        return None
    device = getattr(items, "device", None)
    return None if device is None else str(device)


def on_devices_like(device: str, inputs: Mapping[str, Items]) -> bool:
    """Whether all inputs lie on a device of the same kind as `device`: all on GPUs, or all on the CPU."""
    return all(on_device_like(device, items) for items in inputs.values())


def on_device_like(device: str, items: Items) -> bool:
    """Whether items lie on a device of the same kind as `device`; False for NumPy arrays."""
    place = device_of(items)
    return place is not None and same_kind(place, device)


class Engine(Protocol):
    """A model that is ready to run, used by one thread at a time."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    device: str  # where it runs: cpu, cuda:0

    @property
    def halved(self) -> int:
        """How often it has halved its largest batch because the device's memory was too small."""
        ...

    def run(self, inputs: Mapping[str, Items]) -> dict[str, Any]:
        """Run a batch: items by input name, first axis B, to arrays by output name, first axis B.

        Host in, host out: NumPy arrays, and `Crops` of images in the host's memory, give arrays that belong
        to the caller.

        Device in, device out: PyTorch's tensors, and `Crops` of images on a device, give tensors on the
        engine's device, and the host does not wait. They are written in the order of this thread's stream
        (`engines.device.devices.thread_stream`): work queued on it next may read them, other streams must
        wait for an event of it. The next run of this engine overwrites them. An engine without memory on a
        device (LiteRT, ONNX Runtime) copies the items to the host and gives arrays.

        A graph fixed to a batch of one is run B times.
        """
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...
