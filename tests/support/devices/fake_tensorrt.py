"""A stand-in for the module `tensorrt` where there is no GPU: the part that `engines.tensorrt` runs plans with.

Plans lie in the host's memory. A subclass of `FakeContext` defines `execute_async_v3`, which computes a run.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

SEVERITY = SimpleNamespace(ERROR=1, INTERNAL_ERROR=2, VERBOSE=3)
WORKSPACE_BYTES = 100  # for each row


@dataclass(frozen=True)
class FakeTensor:
    """An input or output of a plan."""

    shape: tuple[int, ...]  # of one item; -1 for a size that depends on the content
    dtype: Any = np.float32
    is_input: bool = False


class FakeEngine:
    """A plan that was loaded.

    Args:
        tensors: the inputs and outputs by name.
        batches: the smallest, typical and largest batch.
        new_context: makes an execution context of this engine.
    """

    def __init__(
        self,
        tensors: dict[str, FakeTensor],
        batches: tuple[int, int, int],
        new_context: Callable[[FakeEngine], FakeContext],
    ):
        self.tensors, self.batches, self._new_context = tensors, batches, new_context
        self.num_io_tensors = len(tensors)

    def get_tensor_name(self, i):
        return list(self.tensors)[i]

    def get_tensor_shape(self, name):
        smallest, _, largest = self.batches
        return (largest if smallest == largest else -1, *self.tensors[name].shape)

    def get_tensor_mode(self, name):
        return "in" if self.tensors[name].is_input else "out"

    def get_tensor_dtype(self, name):
        return self.tensors[name].dtype

    def get_tensor_profile_shape(self, name, profile):
        return [(rows, *self.tensors[name].shape) for rows in self.batches]

    def create_execution_context(self, strategy):
        assert strategy == "ours"
        return self._new_context(self)


class FakeContext:
    """An execution context: it holds the batch size and the addresses that it was given."""

    def __init__(self, engine: FakeEngine):
        self.engine = engine
        self.rows, self.addresses, self.workspace = 0, dict[str, int](), 0

    def set_input_shape(self, name, shape):
        self.rows = shape[0]
        smallest, _, largest = self.engine.batches
        return smallest <= self.rows <= largest and shape[1:] == self.engine.tensors[name].shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return name in self.engine.tensors

    def get_tensor_shape(self, name):
        return (self.rows, *self.engine.tensors[name].shape)

    def update_device_memory_size_for_shapes(self):
        return WORKSPACE_BYTES * self.rows

    def set_device_memory(self, address, size):
        assert address
        assert size == WORKSPACE_BYTES * self.rows
        self.workspace = address


def array_at(address: int, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """The memory at an address of the host, as an array that shares it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


def fake_tensorrt(deserialize: Callable[[Any, bytes], FakeEngine | None]) -> Any:
    """The module; `deserialize(logger, plan)` makes the engine of a plan, None if it is refused."""

    class ILogger:
        def __init__(self):
            pass

    class IOutputAllocator:
        def __init__(self):
            pass

    class Runtime:
        def __init__(self, logger):
            self._logger = logger

        def deserialize_cuda_engine(self, plan):
            return deserialize(self._logger, plan)

    return SimpleNamespace(
        __version__="10.99",
        ILogger=ILogger,
        IOutputAllocator=IOutputAllocator,
        Logger=SimpleNamespace(Severity=SEVERITY),
        Runtime=Runtime,
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="ours"),
        nptype=lambda dtype: dtype,
    )
