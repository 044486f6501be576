"""What arrays of NumPy and tensors of PyTorch share, so that one function serves both.

PyTorch is not imported here: who has a tensor has imported it.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from engines.device.devices import open_device, thread_stream
from engines.device.streams import Stream

Array = Any  # an np.ndarray, or a torch.Tensor of any device
Outputs = dict[str, Array]  # of a model, by role


def is_tensor(array: Array) -> bool:
    """Whether an array is PyTorch's, not NumPy's."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def namespace(array: Array) -> Any:
    """The module, numpy or torch, whose functions take the array."""
    return sys.modules["torch"] if is_tensor(array) else np


def single(array: Array) -> Array:
    """The same in float32; the array itself where it is."""
    return array.float() if is_tensor(array) else array.astype(np.float32, copy=False)


def mean(one: Outputs, other: Outputs) -> Outputs:
    """The mean of two outputs of a model, role by role, in float32."""
    return {role: (single(one[role]) + single(other[role])) / 2 for role in one}


def copied(outputs: Outputs) -> Outputs:
    """Outputs that are the caller's own; an engine's tensors hold until its next run, its arrays for ever."""
    return {role: array.clone() if is_tensor(array) else array for role, array in outputs.items()}


def flipped(array: Array, axis: int) -> Array:
    """The same in reverse along an axis, contiguous."""
    return array.flip(axis) if is_tensor(array) else np.ascontiguousarray(np.flip(array, axis))


def stream_of(outputs: Outputs) -> Stream | None:
    """The stream of this thread on which outputs that are tensors can be read; None if they are arrays."""
    first = next(iter(outputs.values()))
    return thread_stream(open_device(str(first.device))) if is_tensor(first) else None


def to_host(reduced: dict[str, Array]) -> dict[str, np.ndarray]:
    """Small arrays as they are, tensors downloaded: the one place where a stage waits for its device."""
    stream = stream_of(reduced)
    if stream is None:
        return reduced
    device = open_device(str(next(iter(reduced.values())).device))
    return device.download(reduced, stream)


def constant(values: np.ndarray, device: Any) -> Array:
    """Values on a torch device. The host waits for the copy: keep what it gives, and ask once a device."""
    return sys.modules["torch"].from_numpy(values).to(device)


def indices(values: np.ndarray, array: Array) -> Array:
    """Indices (n,) with which the array can be indexed; those of a tensor lie on its device, and stay."""
    return _indices(tuple(values.tolist()), array.device) if is_tensor(array) else values


@functools.cache
def _indices(values: tuple[int, ...], device: Any) -> Array:
    return constant(np.array(values, np.int64), device)
