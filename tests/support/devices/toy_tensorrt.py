"""A plan for tests without a GPU: a small model in the host's memory, run by `fake_tensorrt`.

The model takes `x` (B, 2, 3) and gives `double` (B, 2, 3). If it is `sized`, it also gives `above` (B, n, 3):
the rows of x whose first number is above 0, padded with rows of zeros; n is the number of rows of the item
that has most. It reads and writes the addresses that it was given, and refuses wrong shapes and names as TensorRT does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from engines.tensorrt.flavours import TensorRT
from tests.support.devices.fake_tensorrt import (
    SEVERITY,
    FakeContext,
    FakeEngine,
    FakeTensor,
    array_at,
    fake_tensorrt,
)

ITEM = (2, 3)


class Machine:
    """Runs the model, has memory for `room` rows, and notes its contexts and runs.

    Args:
        smallest: the smallest batch of the plan.
        largest: the largest batch of the plan.
        sized: whether the model has the output `above`.
    """

    def __init__(self, smallest: int = 1, largest: int = 64, *, sized: bool = False):
        self.sized = sized
        self.room = 10**9
        self.contexts: list[int] = []  # the batch size of each context that was set up
        self.runs: list[tuple[int, int]] = []  # batch size, and handle of the stream
        self.launch: Callable[..., None] = run_at_once
        self._batches = (smallest, smallest, largest)

    def flavour(self) -> TensorRT:
        """TensorRT, with the stand-in as its module."""
        return TensorRT(fake_tensorrt(self._deserialize))

    def _deserialize(self, logger, plan: bytes) -> FakeEngine | None:
        if plan != b"plan":
            logger.log(SEVERITY.ERROR, "bad magic")
            return None
        tensors = {"x": FakeTensor(ITEM, is_input=True), "double": FakeTensor(ITEM)}
        if self.sized:
            tensors["above"] = FakeTensor((-1, 3))
        return FakeEngine(tensors, self._batches, lambda engine: Context(engine, self, logger))


def run_at_once(kernel: Callable[..., None], handle: int, reads: list[int], writes: list[int]) -> None:
    """Launch a kernel on a stream, with the addresses that it reads and writes; here it runs at once."""
    kernel(*reads, *writes)


class Context(FakeContext):
    def __init__(self, engine: FakeEngine, machine: Machine, logger):
        super().__init__(engine)
        self.machine, self.logger = machine, logger

    def set_input_shape(self, name, shape):
        self.machine.contexts.append(shape[0])
        return super().set_input_shape(name, shape)

    def get_max_output_size(self, name):
        return self.rows * math.prod(ITEM) * 4

    def set_output_allocator(self, name, allocator):
        self.allocator = allocator
        return name == "above"

    def execute_async_v3(self, handle):
        machine = self.machine
        if self.rows > machine.room:
            self.logger.log(SEVERITY.ERROR, "Error Code 2: OutOfMemory (Requested size was 7 bytes.)")
            return False
        assert self.workspace
        machine.runs.append((self.rows, handle))
        shape = (self.rows, *ITEM)

        def double(x: int, to: int) -> None:
            array_at(to, shape)[...] = 2 * array_at(x, shape)

        machine.launch(double, handle, [self.addresses["x"]], [self.addresses["double"]])
        if machine.sized:
            self._write_above(handle)
        return True

    def _write_above(self, handle: int) -> None:
        """Write the output whose size depends on the content; TensorRT makes the host wait for it, too."""
        x = array_at(self.addresses["x"], (self.rows, *ITEM))
        rows_above = [item[item[:, 0] > 0] for item in x]
        shape = (self.rows, max(map(len, rows_above)), 3)
        size = math.prod(shape) * 4
        address = self.allocator.reallocate_output_async("above", 0, size, 256, handle)
        self.allocator.notify_shape("above", shape)
        above = array_at(address, shape)
        above[...] = 0
        for rows, to in zip(rows_above, above, strict=True):
            to[: len(rows)] = rows
