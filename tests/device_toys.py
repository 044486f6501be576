"""Devices whose streams know what has happened before what, and say so when work is not ordered.

Every stream and every thread of the host has a vector clock (Mattern, 1989). Work takes the clock of its
stream, which knows what the thread that handed it in knew; events carry it to whoever waits for them. Memory
remembers who has read and written it; an access that is not ordered behind those it conflicts with is a `Race`.

What is handed in runs later: when somebody waits for it, or when the dice say so. Until then it works on the
memory itself, whoever has that by then. Memory that is dropped is used again as PyTorch does it: at once by
the stream that has allocated it, unless other streams keep it.

A world that watches runs everything at once instead, and sees what PyTorch's own operations read and write on
the streams that are used: so real stages run in it, as on the CPU. It counts what would make the host wait.
"""

from __future__ import annotations

import contextlib
import random
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engines.device.copies import Landing

Clock = Counter  # by stream or thread
# On a GPU the host waits until it knows their result, or the size of it.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"}


class Race(AssertionError):  # noqa: N818
    """Two accesses of one memory, one of them a write, are not ordered."""


class Memory:
    """Bytes, used again once they are dropped, and who has read and written them."""

    def __init__(self, size: int, owner: ToyStream | None):
        self.bytes = torch.zeros(size, dtype=torch.uint8)
        self.owner = owner  # the stream that may have it again at once; None: page-locked, of the host
        self.written: tuple[object, int] | None = None  # who, and the time on its clock
        self.read: dict[object, int] = {}
        self.keepers: set[ToyStream] = set()
        self.pending: list[ToyEvent] = []  # of keepers, when it was dropped

    def access(self, who: ToyStream, what: str) -> None:
        """Raise unless `who` is behind the last write, and for a write behind all reads, too."""
        if self.owner is None:
            return  # page-locked: its content is checked
        if self.owner.device is not who.device:
            raise Race(f"{who} works on memory of {self.owner.device.name}")
        conflicts = [("written", *self.written)] if self.written else []
        if what == "write":
            conflicts += [("read", *read) for read in self.read.items()]
        for how, by, at in conflicts:
            if who.clock[by] < at:
                who.world.races.append(f"{who} may {what} what is still being {how} by {by}")
                raise Race(who.world.races[-1])
        if what == "write":
            self.written, self.read = (who, who.clock[who]), {}
        else:
            self.read[who] = who.clock[who]


class ToyEvent:
    def __init__(self, stream: ToyStream):
        self.stream, self.clock, self.happened = stream, Clock(stream.clock), False
        self.name = f"{stream}@{stream.clock[stream]}"

    def synchronise(self) -> None:
        with self.stream.world.lock:
            self.stream.world.log.append(("host", self.name))
            self.stream.world.run_until(self)
            self.stream.world.host_knows(self)

    def passed(self) -> bool:
        with self.stream.world.lock:
            self.stream.world.dice()
            if self.happened:
                self.stream.world.host_knows(self)
            return self.happened


class ToyStream:
    def __init__(self, device: ToyDevice, name: str, handle: int):
        self.device, self.world, self.name, self.handle = device, device.world, name, handle
        self.clock = Clock({self: 0})
        self.work: deque[Callable[[], None] | ToyEvent] = deque()
        self.landing = Landing(device)

    def wait(self, event: ToyEvent) -> None:
        with self.world.lock:
            self.world.log.append((self.name, event.name))
            self.give(lambda: self.world.run_until(event))
            self.clock |= event.clock

    def record(self) -> ToyEvent:
        with self.world.lock:
            self.clock |= self.world.host()
            self.clock[self] += 1
            event = ToyEvent(self)
            self.work.append(event)
            self.world.dice()
            return event

    @contextlib.contextmanager
    def use(self):
        current = self.world.current()
        before = current.get(self.device)
        current[self.device] = self
        try:
            with Watch(self.world) if self.world.watches else contextlib.nullcontext():
                yield
        finally:
            current[self.device] = before

    def adopt(self) -> None:
        self.world.current()[self.device] = self
        if self.world.watches:
            Watch(self.world).__enter__()  # for as long as this thread lives

    def keep(self, tensor: torch.Tensor) -> None:
        self.world.memory_of(tensor).keepers.add(self)

    def give(self, work: Callable[[], None], access: Callable[[], None] = lambda: None) -> None:
        """Work for later, which knows what this thread knows now, and what it accesses."""
        self.clock |= self.world.host()
        self.clock[self] += 1
        access()
        self.work.append(work)
        self.world.dice()

    def launch(self, kernel: Callable[..., None], *, reads=(), writes=()) -> None:
        """A kernel, called with the memory of what it reads and writes when its turn has come."""

        def access() -> None:
            for tensors, what in ((reads, "read"), (writes, "write")):
                for tensor in tensors:
                    self.world.memory_of(tensor).access(self, what)

        with self.world.lock:
            places = [self.world.place(tensor) for tensor in (*reads, *writes)]
            self.give(lambda: kernel(*(place() for place in places)), access)

    def __repr__(self) -> str:
        return self.name


class ToyDevice:
    torch_device = torch.device("cpu")

    def __init__(self, world: World, name: str):
        self.world, self.name = world, name
        self._legacy = ToyStream(self, f"{name}/legacy", 0)
        self.streams = [self._legacy]
        self.allocated = 0  # how often memory was, that was not used again
        self.page_locked = 0

    def stream(self) -> ToyStream:
        with self.world.lock:
            count = len(self.streams)
            self.streams.append(ToyStream(self, f"{self.name}/{count}", count))
            return self.streams[-1]

    def legacy(self) -> ToyEvent:
        return self._legacy.record()

    def empty(self, size: int, stream: ToyStream) -> torch.Tensor:
        return self._memory(size, stream)

    def pinned(self, size: int) -> torch.Tensor:
        return self._memory(size, None)

    def copy(self, to: torch.Tensor, source: torch.Tensor, stream: ToyStream) -> None:
        with self.world.lock:
            there, here = self.world.memory_of(to), self.world.memory_of(source)
            if here.owner and there.owner and here.owner.device is not there.owner.device:
                self._copy_between_devices(to, source, here.owner.device, stream)
                return
            with self.world.unseen():
                before = source.clone() if here.owner is None else None
                if there.owner is None:
                    self.world.place(to)().view(torch.uint8).fill_(0xCD)  # who reads it too early reads this

            def copy(source: torch.Tensor, to: torch.Tensor) -> None:
                if before is not None and not torch.equal(source, before):
                    self.world.races.append(f"page-locked memory was refilled before {stream} has copied it")
                to.copy_(source)

            stream.launch(copy, reads=[source], writes=[to])
            for memory in (there, here):
                if memory.owner is None:  # PyTorch does so itself, for page-locked memory
                    memory.keepers.add(stream)

    def download(self, tensors, stream: ToyStream) -> dict[str, np.ndarray]:
        return stream.landing.download(tensors, stream)

    def _copy_between_devices(self, to, source, source_device: ToyDevice, stream: ToyStream) -> None:
        """As PyTorch: on the source's current stream, which waits for ours before and ours for it behind."""
        near = self.world.current().get(source_device)
        if near is None:
            raise Race(f"the default stream of {source_device.name} would copy")
        near.wait(stream.record())
        near.launch(lambda source: None, reads=[source])
        taken = self.world.place(source)
        near.wait(near.record())
        behind = near.record()
        stream.wait(behind)
        stream.launch(lambda to: to.copy_(taken()), writes=[to])
        near.wait(stream.record())

    def _memory(self, size: int, owner: ToyStream | None) -> torch.Tensor:
        with self.world.lock:
            self.world.take_back_dropped()
            idle = self.world.idle
            found = next(
                (m for m in idle if m.owner is owner and len(m.bytes) == size and self._free(m)), None
            )
            if found:
                idle.remove(found)
                for event in found.pending:
                    self.world.host_knows(event)
                found.keepers, found.pending = set(), []
            else:
                self.allocated += owner is not None
                self.page_locked += owner is None
            memory = found or Memory(size, owner)
            return self.world.hand_out(memory)

    def _free(self, memory: Memory) -> bool:
        return all(event.happened for event in memory.pending)


class Watch(TorchDispatchMode):
    """Tells a world what PyTorch's operations of this thread do."""

    def __init__(self, world: World):
        super().__init__()
        self._world = world

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        self._world.see(operation, args, kwargs or {}, found)
        return found


class World:
    """What several devices share: the lock, the dice, the host's clocks and all memory."""

    def __init__(self, seed: int = 0, eager: float = 0.2, *, watches: bool = False):
        self.watches = watches
        self.waits: Counter[str] = Counter()  # operations of PyTorch for which the host would wait
        self.lock = threading.RLock()
        self.races: list[str] = []
        self.log: list[tuple[str, str]] = []  # who waited for what
        self.idle: list[Memory] = []
        self.devices: list[ToyDevice] = []
        self._random, self._eager = random.Random(seed), 1.0 if watches else eager
        self._threads = threading.local()
        self._hosts = 0
        self._out: dict[int, Memory] = {}  # by address
        self._dropped: deque[Memory] = deque()  # told by finalisers, which take no lock

    def device(self, name: str = "toy:0") -> ToyDevice:
        self.devices.append(ToyDevice(self, name))
        return self.devices[-1]

    def host(self) -> Clock:
        """The clock of this thread."""
        if not hasattr(self._threads, "clock"):
            self._threads.clock = Clock()
        return self._threads.clock

    def current(self) -> dict[ToyDevice, ToyStream | None]:
        """The streams to which torch's operations of this thread would go."""
        if not hasattr(self._threads, "current"):
            self._threads.current = {}
        return self._threads.current

    def host_knows(self, event: ToyEvent) -> None:
        clock = self.host()
        clock |= event.clock

    def dice(self) -> None:
        """Perhaps some of the work runs."""
        while self._random.random() < self._eager:
            busy = [s for device in self.devices for s in device.streams if s.work]
            if not busy:
                return
            self._step(self._random.choice(busy))

    def run_until(self, event: ToyEvent) -> None:
        while not event.happened:
            self._step(event.stream)

    def finish(self) -> None:
        for device in self.devices:
            for stream in device.streams:
                while stream.work:
                    self._step(stream)

    def _step(self, stream: ToyStream) -> None:
        work = stream.work.popleft()
        if isinstance(work, ToyEvent):
            work.happened = True
        else:
            with self.unseen():
                work()

    def hand_out(self, memory: Memory) -> torch.Tensor:
        """A tensor of this memory; once it and all of its views are gone, the memory is idle."""
        array = memory.bytes.numpy()[:]
        weakref.finalize(array, self._dropped.append, memory).atexit = False
        self._out[memory.bytes.data_ptr()] = memory
        return torch.from_numpy(array)

    @contextlib.contextmanager
    def unseen(self):
        """Inside, PyTorch's operations are the toys' own."""
        self._threads.unseen = True
        try:
            yield
        finally:
            self._threads.unseen = False

    def see(self, operation, args: tuple, kwargs: dict, found: object) -> None:
        """What an operation of PyTorch reads, writes and makes, on the stream that is used."""
        if getattr(self._threads, "unseen", False):
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
            name = operation._schema.name.removeprefix("aten::")
            masked = name == "index" and any(
                value.dtype == torch.bool for value in tree_leaves(args[1]) if value is not None
            )
            if touched and (name in WAITING or masked):
                self.waits[name] += 1
            if any(given.alias_info for given in operation._schema.returns):
                return  # a view: what it is of is known, or the host's
            for tensor in tree_leaves(found):
                if isinstance(tensor, torch.Tensor):
                    self._note(tensor, stream)

    def _known(self, value: object) -> list[Memory]:
        tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        found = [self._out.get(tensor.untyped_storage().data_ptr()) for tensor in tensors if tensor.numel()]
        return [memory for memory in found if memory]

    def _note(self, tensor: torch.Tensor, stream: ToyStream) -> None:
        """Memory that an operation has allocated; it may be dropped only if whoever uses it keeps it."""
        address = tensor.untyped_storage().data_ptr()
        if not tensor.numel() or address in self._out:
            return
        memory = self._out[address] = Memory(0, stream)
        memory.access(stream, "write")
        weakref.finalize(tensor.untyped_storage(), self._forget, address, memory).atexit = False

    def _forget(self, address: int, memory: Memory) -> None:
        """Its stream may have it again at once: work of others on it must be over, or they keep it."""
        with self.lock:
            del self._out[address]
            uses = {**memory.read, **dict([memory.written] if memory.written else [])}
            for stream, at in uses.items():
                if stream not in memory.keepers and memory.owner.clock[stream] < at:
                    self.races.append(f"memory of {memory.owner} was dropped while {stream} works on it")

    def take_back_dropped(self) -> None:
        while self._dropped:
            memory = self._dropped.popleft()
            memory.pending = [stream.record() for stream in memory.keepers if stream is not memory.owner]
            self.idle.append(memory)

    def memory_of(self, tensor: torch.Tensor) -> Memory:
        return self._out[tensor.untyped_storage().data_ptr()]

    def place(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """The place of a tensor in its memory, which does not keep it alive."""
        memory = self.memory_of(tensor)
        if self.watches:  # it runs at once
            return lambda: tensor
        start, shape, stride = tensor.storage_offset() * tensor.itemsize, tensor.shape, tensor.stride()
        reach = 1 + sum((count - 1) * step for count, step in zip(shape, stride, strict=True))
        stop = start + tensor.itemsize * (reach if tensor.numel() else 0)
        dtype = tensor.dtype
        return lambda: memory.bytes[start:stop].view(dtype).as_strided(shape, stride)
