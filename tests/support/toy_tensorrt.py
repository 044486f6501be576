"""A plan that stands for one of TensorRT where there is no GPU: a module like `tensorrt`, in the host's memory.

Its model takes `x` (B, 2, 3) and gives `double` (B, 2, 3), and `above` (B, n, 3): the rows of x whose first
number is above 0, by content as many as the item that has most, and zeros. It reads and writes the addresses
that it was told, and refuses what TensorRT would refuse.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

from engines.tensorrt.flavours import TensorRT

ONE = (2, 3)


class Machine:
    """What the model was asked to do, and how many rows its memory is good for."""

    def __init__(self, smallest: int = 1, largest: int = 64, *, sized: bool = False):
        self.smallest, self.largest, self.sized = smallest, largest, sized
        self.room = 10**9  # rows for which there is memory
        self.contexts: list[int] = []  # rows of each that was made
        self.runs: list[tuple[int, int]] = []  # rows, handle of the stream
        self.hand_in: Callable[..., None] = at_once

    def flavour(self) -> TensorRT:
        """The library whose plan this is."""
        return TensorRT(_module(self))


def at_once(kernel: Callable[..., None], handle: int, reads: list[int], writes: list[int]) -> None:
    """Give a stream, by its handle, a kernel with the addresses that it reads and writes: here it just runs."""
    kernel(*reads, *writes)


def _array(address: int, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    memory = (ctypes.c_float * max(count, 1)).from_address(address)
    return np.ctypeslib.as_array(memory)[:count].reshape(shape)


def _module(machine: Machine) -> SimpleNamespace:
    class ILogger:
        def __init__(self):
            pass

    class IOutputAllocator:
        def __init__(self):
            pass

    severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=2, VERBOSE=3)

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, plan):
            if plan != b"plan":
                self.logger.log(severity.ERROR, "bad magic")
                return None
            return Engine(machine, self.logger)

    return SimpleNamespace(
        __version__="10.99",
        ILogger=ILogger,
        IOutputAllocator=IOutputAllocator,
        Logger=SimpleNamespace(Severity=severity),
        Runtime=Runtime,
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="ours"),
        nptype=lambda dtype: dtype,
    )


class Engine:
    def __init__(self, machine, logger):
        self.machine, self.logger = machine, logger
        self.names = ["x", "double", *(["above"] if machine.sized else [])]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, i):
        return self.names[i]

    def get_tensor_shape(self, name):
        same = self.machine.smallest == self.machine.largest
        return (self.machine.largest if same else -1, *((-1, 3) if name == "above" else ONE))

    def get_tensor_mode(self, name):
        return "in" if name == "x" else "out"

    def get_tensor_dtype(self, name):
        return np.float32

    def get_tensor_profile_shape(self, name, profile):
        return [(rows, *ONE) for rows in (self.machine.smallest, self.machine.smallest, self.machine.largest)]

    def create_execution_context(self, strategy):
        assert strategy == "ours"
        return Context(self)


class Context:
    def __init__(self, engine):
        self.engine, self.machine = engine, engine.machine
        self.rows, self.addresses, self.memory = 0, {}, 0

    def set_input_shape(self, name, shape):
        self.rows = shape[0]
        self.machine.contexts.append(self.rows)
        return self.machine.smallest <= self.rows <= self.machine.largest and shape[1:] == ONE

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return name in self.engine.names

    def update_device_memory_size_for_shapes(self):
        return 100 * self.rows

    def set_device_memory(self, address, size):
        assert address
        assert size == 100 * self.rows
        self.memory = address

    def get_tensor_shape(self, name):
        return (self.rows, *((-1, 3) if name == "above" else ONE))

    def get_max_output_size(self, name):
        return self.rows * 2 * 3 * 4

    def set_output_allocator(self, name, allocator):
        self.allocator = allocator
        return name == "above"

    def execute_async_v3(self, handle):
        machine = self.machine
        if self.rows > machine.room:
            self.engine.logger.log(1, "Error Code 2: OutOfMemory (Requested size was 7 bytes.)")
            return False
        assert self.memory
        machine.runs.append((self.rows, handle))
        shape = (self.rows, *ONE)

        def double(x: int, to: int) -> None:
            _array(to, shape)[...] = 2 * _array(x, shape)

        machine.hand_in(double, handle, [self.addresses["x"]], [self.addresses["double"]])
        if machine.sized:  # TensorRT waits here, too
            x = _array(self.addresses["x"], shape)
            kept = [item[item[:, 0] > 0] for item in x]
            shape = (self.rows, max(map(len, kept)), 3)
            address = self.allocator.reallocate_output_async("above", 0, int(np.prod(shape)) * 4, 256, handle)
            self.allocator.notify_shape("above", shape)
            above = _array(address, shape)
            above[...] = 0
            for rows, to in zip(kept, above, strict=True):
                to[: len(rows)] = rows
        return True
