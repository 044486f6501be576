"""Devices for tests: their streams detect races, that is, accesses of memory that no event orders.

Each stream and each host thread has a vector clock (Mattern, 1989). Queued work takes the clock of its
stream, joined with the clock of the thread that queued it; events carry clocks to the streams and threads
that wait for them. Each memory remembers the last accesses. An access that is not ordered after those that it
conflicts with is a `Race`.

Queued work runs later: when something waits for it, or at random (`World`). It then works on the memory
itself, even if that has been dropped and given out again in the meantime. Dropped memory is used again as
PyTorch does it: at once by the stream that allocated it, and after the other streams that were told to keep
it alive.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from engines.device.transfers import DownloadBuffer

if TYPE_CHECKING:
    from tests.support.devices.toy_world import World

Clock = Counter  # time by stream or thread


class Race(AssertionError):  # noqa: N818
    """No event orders two accesses of the same memory, of which at least one is a write."""


class Memory:
    """Bytes that are used again after they are dropped, and a record of who has read and written them."""

    def __init__(self, size: int, owner: ToyStream | None):
        self.bytes = torch.zeros(size, dtype=torch.uint8)
        self.owner = owner  # the stream that allocated it; None for page-locked host memory
        self.written: tuple[object, int] | None = None  # the stream, and the time on its clock
        self.read: dict[object, int] = {}
        self.keepers: set[ToyStream] = set()  # other streams that use it
        # Recorded on the keepers when the memory was dropped: the events after their last use.
        self.pending: list[ToyEvent] = []

    def access(self, stream: ToyStream, kind: str) -> None:
        """Note a read or a write; raise `Race` unless it is ordered after the last write, a write also after all reads."""
        if self.owner is None:
            return  # copies compare the content of page-locked memory instead
        if self.owner.device is not stream.device:
            raise Race(f"{stream} works on memory of {self.owner.device.name}")
        conflicts = [("written", *self.written)] if self.written else []
        if kind == "write":
            conflicts += [("read", *read) for read in self.read.items()]
        for how, by, at in conflicts:
            if stream.clock[by] < at:
                stream.world.races.append(f"{stream} may {kind} memory that is still being {how} by {by}")
                raise Race(stream.world.races[-1])
        if kind == "write":
            self.written, self.read = (stream, stream.clock[stream]), {}
        else:
            self.read[stream] = stream.clock[stream]


class ToyEvent:
    def __init__(self, stream: ToyStream):
        self.stream, self.clock, self.done = stream, Clock(stream.clock), False
        self.name = f"{stream}@{stream.clock[stream]}"

    def synchronise(self) -> None:
        with self.stream.world.lock:
            self.stream.world.log.append(("host", self.name))
            self.stream.world.run_until(self)
            self.stream.world.host_waited_for(self)

    def completed(self) -> bool:
        with self.stream.world.lock:
            self.stream.world.run_some()
            if self.done:
                self.stream.world.host_waited_for(self)
            return self.done


class ToyStream:
    def __init__(self, device: ToyDevice, name: str, handle: int):
        self.device, self.world, self.name, self.handle = device, device.world, name, handle
        self.clock = Clock({self: 0})
        self.work: deque[Callable[[], None] | ToyEvent] = deque()
        self.downloads = DownloadBuffer(device)

    def wait(self, event: ToyEvent) -> None:
        with self.world.lock:
            self.world.log.append((self.name, event.name))
            self.queue(lambda: self.world.run_until(event))
            self.clock |= event.clock

    def record(self) -> ToyEvent:
        with self.world.lock:
            self.clock |= self.world.host()
            self.clock[self] += 1
            event = ToyEvent(self)
            self.work.append(event)
            self.world.run_some()
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
        self.world.watch().__enter__()  # until the thread ends

    def keep_alive(self, tensor: torch.Tensor) -> None:
        self.world.memory_of(tensor).keepers.add(self)

    def queue(self, work: Callable[[], None], access: Callable[[], None] = lambda: None) -> None:
        """Queue work, ordered after all that this thread has waited for; `access` notes its accesses."""
        self.clock |= self.world.host()
        self.clock[self] += 1
        access()
        self.work.append(work)
        self.world.run_some()

    def launch(self, kernel: Callable[..., None], *, reads=(), writes=()) -> None:
        """Queue a kernel, which is later called with the memory of the tensors that it reads and writes."""

        def access() -> None:
            for tensors, kind in ((reads, "read"), (writes, "write")):
                for tensor in tensors:
                    self.world.memory_of(tensor).access(self, kind)

        with self.world.lock:
            places = [self.world.place(tensor) for tensor in (*reads, *writes)]
            self.queue(lambda: kernel(*(place() for place in places)), access)

    def __repr__(self) -> str:
        return self.name


class ToyDevice:
    torch_device = torch.device("cpu")

    def __init__(self, world: World, name: str):
        self.world, self.name = world, name
        self._legacy = ToyStream(self, f"{name}/legacy", 0)
        self.streams = [self._legacy]
        self.allocated = 0  # allocations of new memory, on the device
        self.page_locked = 0  # and on the host

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
            with self.world.unwatched():
                before = source.clone() if here.owner is None else None
                if there.owner is None:
                    # A read before the copy has run finds these bytes, so the test fails.
                    self.world.place(to)().view(torch.uint8).fill_(0xCD)

            def copy(source: torch.Tensor, to: torch.Tensor) -> None:
                if before is not None and not torch.equal(source, before):
                    self.world.races.append(f"page-locked memory was refilled before {stream} has copied it")
                to.copy_(source)

            stream.launch(copy, reads=[source], writes=[to])
            for memory in (there, here):
                if memory.owner is None:  # for page-locked memory, PyTorch does this by itself
                    memory.keepers.add(stream)

    def download(self, tensors, stream: ToyStream) -> dict[str, np.ndarray]:
        return stream.downloads.download(tensors, stream)

    def _copy_between_devices(self, to, source, source_device: ToyDevice, stream: ToyStream) -> None:
        """As PyTorch: the source device's current stream copies, after `stream`; then `stream` waits for it."""
        source_stream = self.world.current().get(source_device)
        if source_stream is None:
            raise Race(f"the default stream of {source_device.name} would copy")
        source_stream.wait(stream.record())
        source_stream.launch(lambda source: None, reads=[source])
        taken = self.world.place(source)
        source_stream.wait(source_stream.record())
        behind = source_stream.record()
        stream.wait(behind)
        stream.launch(lambda to: to.copy_(taken()), writes=[to])
        source_stream.wait(stream.record())

    def _memory(self, size: int, owner: ToyStream | None) -> torch.Tensor:
        with self.world.lock:
            self.world.collect_dropped()
            idle = self.world.idle
            found = next(
                (m for m in idle if m.owner is owner and len(m.bytes) == size and self._free(m)), None
            )
            if found:
                idle.remove(found)
                for event in found.pending:
                    self.world.host_waited_for(event)
                found.keepers, found.pending = set(), []
            else:
                self.allocated += owner is not None
                self.page_locked += owner is None
            memory = found or Memory(size, owner)
            return self.world.hand_out(memory)

    def _free(self, memory: Memory) -> bool:
        return all(event.done for event in memory.pending)
