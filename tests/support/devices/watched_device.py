"""Test devices on which real stages run: PyTorch's own operations are checked for races, too.

All work runs at once, on the CPU. PyTorch's operations belong to the stream that is current; their reads,
writes and allocations are checked like those of `toy_device`. Operations for which the host would wait on a
GPU are counted.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.devices.no_waits import waits
from tests.support.devices.toy_device import Memory, Race, ToyStream
from tests.support.devices.toy_world import World


class WatchedWorld(World):
    def __init__(self) -> None:
        super().__init__(eager=1.0)
        self.waits: Counter[str] = Counter()  # PyTorch's operations for which the host would wait

    def watch(self) -> contextlib.AbstractContextManager:
        return Watch(self)

    @contextlib.contextmanager
    def unwatched(self):
        self.threads.unwatched = True
        try:
            yield
        finally:
            self.threads.unwatched = False

    def place(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        return lambda: tensor  # work runs at once, so the tensor is still there

    def check(self, operation, args: tuple, kwargs: dict, found: object) -> None:
        """Check what an operation reads and writes on the current stream, and note what it allocates."""
        if getattr(self.threads, "unwatched", False):
            return
        arguments = operation._schema.arguments
        given = [(argument, kwargs.get(argument.name)) for argument in arguments[len(args) :]]
        touched = [
            (memory, "write" if argument.alias_info and argument.alias_info.is_write else "read")
            for argument, value in [*zip(arguments, args, strict=False), *given]
            if not argument.alias_info
            or argument.alias_info.is_write  # otherwise the operation only makes a view
            for memory in self._memories(value)
        ]
        streams = [stream for stream in self.current().values() if stream]
        with self.lock:
            if not streams:
                if touched:
                    raise Race(f"the default stream would run {operation}")
                return
            (stream,) = streams
            stream.clock |= self.host()
            stream.clock[stream] += 1
            for memory, kind in sorted(touched, key=lambda access: access[1]):  # reads first
                memory.access(stream, kind)
            if touched and (name := waits(operation, args)):
                self.waits[name] += 1
            if any(given.alias_info for given in operation._schema.returns):
                return  # a view of memory that is known already, or of the host's
            for tensor in tree_leaves(found):
                if isinstance(tensor, torch.Tensor):
                    self._add_memory(tensor, stream)

    def _memories(self, value: object) -> list[Memory]:
        tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        found = [
            self.handed_out.get(tensor.untyped_storage().data_ptr()) for tensor in tensors if tensor.numel()
        ]
        return [memory for memory in found if memory]

    def _add_memory(self, tensor: torch.Tensor, stream: ToyStream) -> None:
        """Record memory that an operation has allocated, to check at the end that no stream still uses it."""
        address = tensor.untyped_storage().data_ptr()
        if not tensor.numel() or address in self.handed_out:
            return
        memory = self.handed_out[address] = Memory(0, stream)
        memory.access(stream, "write")
        weakref.finalize(tensor.untyped_storage(), self._remove_memory, address, memory).atexit = False

    def _remove_memory(self, address: int, memory: Memory) -> None:
        """Check that other streams are done with dropped memory, or keep it alive: its owner may reuse it."""
        with self.lock:
            del self.handed_out[address]
            uses = {**memory.read, **dict([memory.written] if memory.written else [])}
            for stream, at in uses.items():
                if stream not in memory.keepers and memory.owner.clock[stream] < at:
                    self.races.append(f"memory of {memory.owner} was dropped while {stream} works on it")


class Watch(TorchDispatchMode):
    """Passes PyTorch's operations of this thread to a world."""

    def __init__(self, world: WatchedWorld):
        super().__init__()
        self._world = world

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        self._world.check(operation, args, kwargs or {}, found)
        return found
