"""Devices whose streams know what has happened before what, and say so when work is not ordered.

Every stream and every thread of the host has a vector clock (Mattern, 1989). Work takes the clock of its
stream, which knows what the thread that handed it in knew; events carry it to whoever waits for them. Memory
remembers who has read and written it; an access that is not ordered behind those it conflicts with is a `Race`.

What is handed in runs later: when somebody waits for it, or when the dice say so. Until then it works on the
memory itself, whoever has that by then. Memory that is dropped is used again as PyTorch does it: at once by
the stream that has allocated it, unless other streams keep it.
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

from engines.device.transfers import DownloadBuffer

Clock = Counter  # by stream or thread


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

    def completed(self) -> bool:
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
        self.downloads = DownloadBuffer(device)

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
            with self.world.watch():
                yield
        finally:
            current[self.device] = before

    def make_current(self) -> None:
        self.world.current()[self.device] = self
        self.world.watch().__enter__()  # for as long as this thread lives

    def keep_alive(self, tensor: torch.Tensor) -> None:
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

    def new_stream(self) -> ToyStream:
        with self.world.lock:
            count = len(self.streams)
            self.streams.append(ToyStream(self, f"{self.name}/{count}", count))
            return self.streams[-1]

    def legacy_stream_event(self) -> ToyEvent:
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
        return stream.downloads.download(tensors, stream)

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


class World:
    """What several devices share: the lock, the dice, the host's clocks and all memory."""

    def __init__(self, seed: int = 0, eager: float = 0.2):
        self.lock = threading.RLock()
        self.races: list[str] = []
        self.log: list[tuple[str, str]] = []  # who waited for what
        self.idle: list[Memory] = []
        self.devices: list[ToyDevice] = []
        self._random, self._eager = random.Random(seed), eager
        self.threads = threading.local()
        self._hosts = 0
        self.handed_out: dict[int, Memory] = {}  # by address
        self._dropped: deque[Memory] = deque()  # told by finalisers, which take no lock

    def device(self, name: str = "toy:0") -> ToyDevice:
        self.devices.append(ToyDevice(self, name))
        return self.devices[-1]

    def host(self) -> Clock:
        """The clock of this thread."""
        if not hasattr(self.threads, "clock"):
            self.threads.clock = Clock()
        return self.threads.clock

    def current(self) -> dict[ToyDevice, ToyStream | None]:
        """The streams to which torch's operations of this thread would go."""
        if not hasattr(self.threads, "current"):
            self.threads.current = {}
        return self.threads.current

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
        self.handed_out[memory.bytes.data_ptr()] = memory
        return torch.from_numpy(array)

    def watch(self) -> contextlib.AbstractContextManager:
        """Inside, this world sees what PyTorch's operations of this thread do, if it wants to."""
        return contextlib.nullcontext()

    def unseen(self) -> contextlib.AbstractContextManager:
        """Inside, they are the toys' own."""
        return contextlib.nullcontext()

    def take_back_dropped(self) -> None:
        while self._dropped:
            memory = self._dropped.popleft()
            memory.pending = [stream.record() for stream in memory.keepers if stream is not memory.owner]
            self.idle.append(memory)

    def memory_of(self, tensor: torch.Tensor) -> Memory:
        return self.handed_out[tensor.untyped_storage().data_ptr()]

    def place(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """The place of a tensor in its memory, which does not keep it alive."""
        memory = self.memory_of(tensor)
        start, shape, stride = tensor.storage_offset() * tensor.itemsize, tensor.shape, tensor.stride()
        reach = 1 + sum((count - 1) * step for count, step in zip(shape, stride, strict=True))
        stop = start + tensor.itemsize * (reach if tensor.numel() else 0)
        dtype = tensor.dtype
        return lambda: memory.bytes[start:stop].view(dtype).as_strided(shape, stride)
