"""Several test devices, and the order in which their queued work runs; see `toy_device`."""

from __future__ import annotations

import contextlib
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable

import torch

from tests.support.devices.toy_device import Clock, Memory, ToyDevice, ToyEvent, ToyStream


class World:
    """Several devices, all memory, the host threads' clocks, and the random order in which queued work runs.

    Args:
        seed: of the random order.
        eager: the probability that a piece of queued work runs at an occasion; 0: only when something waits
            for it.
    """

    def __init__(self, seed: int = 0, eager: float = 0.2):
        self.lock = threading.RLock()
        self.races: list[str] = []
        self.log: list[tuple[str, str]] = []  # each wait: the stream or "host", and the event
        self.idle: list[Memory] = []
        self.devices: list[ToyDevice] = []
        self._random, self._eager = random.Random(seed), eager
        self.threads = threading.local()
        self.handed_out: dict[int, Memory] = {}  # by address
        self._dropped: deque[Memory] = deque()  # filled by finalisers, which must not take the lock

    def device(self, name: str = "toy:0") -> ToyDevice:
        self.devices.append(ToyDevice(self, name))
        return self.devices[-1]

    def host(self) -> Clock:
        """This thread's clock."""
        if not hasattr(self.threads, "clock"):
            self.threads.clock = Clock()
        return self.threads.clock

    def current(self) -> dict[ToyDevice, ToyStream | None]:
        """The current streams: PyTorch's operations of this thread would go there."""
        if not hasattr(self.threads, "current"):
            self.threads.current = {}
        return self.threads.current

    def host_waited_for(self, event: ToyEvent) -> None:
        """What this thread queues from now on is ordered after the event."""
        clock = self.host()
        clock |= event.clock

    def run_some(self) -> None:
        """Run some queued work, or none, at random."""
        while self._random.random() < self._eager:
            busy = [s for device in self.devices for s in device.streams if s.work]
            if not busy:
                return
            self._step(self._random.choice(busy))

    def run_until(self, event: ToyEvent) -> None:
        while not event.done:
            self._step(event.stream)

    def finish(self) -> None:
        """Run all queued work."""
        for device in self.devices:
            for stream in device.streams:
                while stream.work:
                    self._step(stream)

    def _step(self, stream: ToyStream) -> None:
        work = stream.work.popleft()
        if isinstance(work, ToyEvent):
            work.done = True
        else:
            with self.unwatched():
                work()

    def hand_out(self, memory: Memory) -> torch.Tensor:
        """A tensor in this memory; when it and all its views are dropped, the memory is idle."""
        array = memory.bytes.numpy()[:]
        weakref.finalize(array, self._dropped.append, memory).atexit = False
        self.handed_out[memory.bytes.data_ptr()] = memory
        return torch.from_numpy(array)

    def watch(self) -> contextlib.AbstractContextManager:
        """Inside, a world that checks PyTorch's own operations sees those of this thread; this one does not."""
        return contextlib.nullcontext()

    def unwatched(self) -> contextlib.AbstractContextManager:
        """Inside, PyTorch's operations are the test device's own and are not checked."""
        return contextlib.nullcontext()

    def collect_dropped(self) -> None:
        """Make dropped memory idle."""
        while self._dropped:
            memory = self._dropped.popleft()
            memory.pending = [stream.record() for stream in memory.keepers if stream is not memory.owner]
            self.idle.append(memory)

    def memory_of(self, tensor: torch.Tensor) -> Memory:
        return self.handed_out[tensor.untyped_storage().data_ptr()]

    def place(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """A function that gives the tensor's part of its memory; it does not keep the tensor alive."""
        memory = self.memory_of(tensor)
        start, shape, stride = tensor.storage_offset() * tensor.itemsize, tensor.shape, tensor.stride()
        reach = 1 + sum((count - 1) * step for count, step in zip(shape, stride, strict=True))
        stop = start + tensor.itemsize * (reach if tensor.numel() else 0)
        dtype = tensor.dtype
        return lambda: memory.bytes[start:stop].view(dtype).as_strided(shape, stride)
