"""A toy world in which real stages run, as on the CPU: it sees what PyTorch's own operations do.

Everything runs at once. What operations read, write and allocate on the streams that are used is ordered or a
`Race`, as for the toys' own work, and what would make the host wait is counted.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toy_device import Memory, Race, ToyStream, World

from tests.support.no_waits import waits


class WatchedWorld(World):
    def __init__(self) -> None:
        super().__init__(eager=1.0)
        self.waits: Counter[str] = Counter()  # operations of PyTorch for which the host would wait

    def watch(self) -> contextlib.AbstractContextManager:
        return Watch(self)

    @contextlib.contextmanager
    def unseen(self):
        self.threads.unseen = True
        try:
            yield
        finally:
            self.threads.unseen = False

    def place(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        return lambda: tensor  # it runs at once

    def see(self, operation, args: tuple, kwargs: dict, found: object) -> None:
        """What an operation of PyTorch reads, writes and makes, on the stream that is used."""
        if getattr(self.threads, "unseen", False):
            return
        arguments = operation._schema.arguments
        given = [(argument, kwargs.get(argument.name)) for argument in arguments[len(args) :]]
        touched = [
            (memory, "write" if argument.alias_info and argument.alias_info.is_write else "read")
            for argument, value in [*zip(arguments, args, strict=False), *given]
            if not argument.alias_info or argument.alias_info.is_write  # else it only makes a view
            for memory in self._known(value)
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
            for memory, what in sorted(touched, key=lambda access: access[1]):  # reads first
                memory.access(stream, what)
            if touched and (name := waits(operation, args)):
                self.waits[name] += 1
            if any(given.alias_info for given in operation._schema.returns):
                return  # a view: what it is of is known, or the host's
            for tensor in tree_leaves(found):
                if isinstance(tensor, torch.Tensor):
                    self._note(tensor, stream)

    def _known(self, value: object) -> list[Memory]:
        tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        found = [
            self.handed_out.get(tensor.untyped_storage().data_ptr()) for tensor in tensors if tensor.numel()
        ]
        return [memory for memory in found if memory]

    def _note(self, tensor: torch.Tensor, stream: ToyStream) -> None:
        """Memory that an operation has allocated; it may be dropped only if whoever uses it keeps it."""
        address = tensor.untyped_storage().data_ptr()
        if not tensor.numel() or address in self.handed_out:
            return
        memory = self.handed_out[address] = Memory(0, stream)
        memory.access(stream, "write")
        weakref.finalize(tensor.untyped_storage(), self._forget, address, memory).atexit = False

    def _forget(self, address: int, memory: Memory) -> None:
        """Its stream may have it again at once: work of others on it must be over, or they keep it."""
        with self.lock:
            del self.handed_out[address]
            uses = {**memory.read, **dict([memory.written] if memory.written else [])}
            for stream, at in uses.items():
                if stream not in memory.keepers and memory.owner.clock[stream] < at:
                    self.races.append(f"memory of {memory.owner} was dropped while {stream} works on it")


class Watch(TorchDispatchMode):
    """Tells a world what PyTorch's operations of this thread do."""

    def __init__(self, world: WatchedWorld):
        super().__init__()
        self._world = world

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        self._world.see(operation, args, kwargs or {}, found)
        return found
