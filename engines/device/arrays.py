"""Functions that take NumPy arrays and PyTorch tensors alike, so that the code above them is written once.

PyTorch is not imported here: a caller that has a tensor has imported it.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from engines.device.devices import open_device, thread_stream
from engines.device.streams import Stream

Array = Any  # an np.ndarray, or a torch.Tensor on any device
Outputs = dict[str, Array]  # a model's outputs, by role


def is_tensor(array: Array) -> bool:
    """Whether an array is a PyTorch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def namespace(array: Array) -> Any:
    """The module, numpy or torch, whose functions take the array."""
    return sys.modules["torch"] if is_tensor(array) else np


def single(array: Array) -> Array:
    """The array in single precision, float32; not copied if it is float32 already."""
    return array.float() if is_tensor(array) else array.astype(np.float32, copy=False)


def mean(one: Outputs, other: Outputs) -> Outputs:
    """The mean of two outputs of a model, role by role, in float32."""
    return {role: (single(one[role]) + single(other[role])) / 2 for role in one}


def copied(outputs: Outputs) -> Outputs:
    """Outputs that stay valid: tensors are copied, as the engine's next run overwrites them."""
    return {role: array.clone() if is_tensor(array) else array for role, array in outputs.items()}


def flipped(array: Array, axis: int) -> Array:
    """The array reversed along an axis, contiguous."""
    return array.flip(axis) if is_tensor(array) else np.ascontiguousarray(np.flip(array, axis))


def stream_of(outputs: Outputs) -> Stream | None:
    """This thread's stream on the outputs' device, on which they can be read; None for NumPy arrays."""
    first = next(iter(outputs.values()))
    return thread_stream(open_device(str(first.device))) if is_tensor(first) else None


def to_host(reduced: dict[str, Array]) -> dict[str, np.ndarray]:
    """NumPy arrays unchanged, tensors downloaded: the one place where a stage waits for its device."""
    stream = stream_of(reduced)
    if stream is None:
        return reduced
    device = open_device(str(next(iter(reduced.values())).device))
    return device.download(reduced, stream)


def constant(values: np.ndarray, device: Any) -> Array:
    """The values as a tensor on a torch device; the host waits for the copy, so keep the result."""
    return sys.modules["torch"].from_numpy(values).to(device)


def indices(values: np.ndarray, array: Array) -> Array:
    """Indices (n,) for `array`: for a tensor they are copied to its device, once, and cached."""
    return _indices(tuple(values.tolist()), array.device) if is_tensor(array) else values


@functools.cache
def _indices(values: tuple[int, ...], device: Any) -> Array:
    return constant(np.array(values, np.int64), device)
