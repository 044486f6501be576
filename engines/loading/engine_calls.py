"""Watch the calls of engines: how long each took, on the host and on the device, and what it was given."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np

from engines.backends.base import Engine, Items, MadeInPlace, device_of

if TYPE_CHECKING:
    from engines.device.streams import Stream


class Loaded(NamedTuple):
    """A model that was loaded while somebody watched."""

    model: str
    file: str
    backend: str
    threads: int


class EngineCall(NamedTuple):
    """One call of an engine."""

    engine: Loaded
    start_ns: int  # monotonic
    end_ns: int
    making_ns: int  # of that time, in which the inputs were made in the engine's own memory
    items: int  # in the batch
    bytes_in: int
    bytes_out: int
    # Begin and end on the device, by the same clock, where it can tell: of those calls that have ended there
    # since the last one was told. Nobody waits for the device to tell them, so they may be of earlier calls.
    device_ns: tuple[tuple[int, int], ...]
    copied: int | None  # bytes to and from the device; None without one


class Watcher(Protocol):
    """Is told of each call by the thread that makes it, so it has to be quick about it."""

    def engine_entered(self, engine: Loaded) -> None:
        """A call begins; `engine_left` follows, also where it fails."""
        ...

    def engine_left(self, call: EngineCall) -> None:
        """The call has ended."""
        ...


# Of the whole process, since operators load their models by themselves, in threads of their own: whoever
# watches has no way to hand them anything. Only ever replaced, so that threads read it without a lock.
_watchers: tuple[Watcher, ...] = ()
_changing = threading.Lock()


@contextmanager
def watch(watcher: Watcher) -> Iterator[None]:
    """In here, `watcher` is told of the calls of all engines, in all threads, that are loaded in here."""
    global _watchers
    with _changing:
        _watchers = (*_watchers, watcher)
    try:
        yield
    finally:
        with _changing:
            _watchers = tuple(other for other in _watchers if other is not watcher)


def watched(engine: Engine, loaded: Loaded) -> Engine:
    """The engine itself while nobody watches, at no cost; else one that tells of its calls."""
    return Watched(engine, loaded) if _watchers else engine


class TimesDevice(Protocol):
    """An engine that can tell when the device worked for it; it does so only once it was asked to."""

    def time_device(self) -> None:
        """Measure from now on."""
        ...

    def device_times(self) -> tuple[tuple[int, int], ...]:
        """Begin and end, monotonic, of the runs that have ended since the last call; without waiting."""
        ...


class Watched:
    """An engine whose calls are told to those who watch; for all else like the one inside."""

    def __init__(self, engine: Engine, loaded: Loaded):
        self._engine, self._loaded = engine, loaded
        self.inputs, self.outputs, self.device = engine.inputs, engine.outputs, engine.device
        self._timed = cast(TimesDevice, engine) if hasattr(engine, "time_device") else None
        if self._timed:
            self._timed.time_device()

    @property
    def halved(self) -> int:
        """How often the engine has halved its largest batch."""
        return self._engine.halved

    def run(self, inputs: Mapping[str, Items]) -> dict[str, Any]:
        """Run a batch, as the engine does, and tell of it."""
        if not (watchers := _watchers):
            return self._engine.run(inputs)
        outputs: dict[str, Any] = {}
        making = _Making()
        timed = {name: making.of(items) for name, items in inputs.items()}
        for watcher in watchers:
            watcher.engine_entered(self._loaded)
        start_ns = time.monotonic_ns()
        try:
            outputs = self._engine.run(timed)
        finally:
            call = EngineCall(
                engine=self._loaded,
                start_ns=start_ns,
                end_ns=time.monotonic_ns(),
                making_ns=making.ns,
                items=len(next(iter(inputs.values()), ())),
                bytes_in=_nbytes(inputs),
                bytes_out=_nbytes(outputs),
                device_ns=self._timed.device_times() if self._timed else (),
                copied=self._copied(inputs, outputs),
            )
            for watcher in watchers:
                watcher.engine_left(call)
        return outputs

    def close(self) -> None:
        """Free the model's memory."""
        self._engine.close()

    def _copied(self, inputs: Mapping[str, Items], outputs: Mapping[str, Any]) -> int | None:
        """Bytes that went from the host to a GPU or back; None where there is none."""
        down = sum(items.nbytes for items in inputs.values() if (device_of(items) or "cpu") != "cpu")
        if self.device == "cpu":
            return down or None
        if down and not any(isinstance(output, np.ndarray) for output in outputs.values()):
            return 0  # all of it has stayed there
        return down + _nbytes(inputs) + _nbytes(outputs)


class _Making:
    """How long items took to be made in the engine's memory, while its call went on."""

    def __init__(self) -> None:
        self.ns = 0

    def of(self, items: Items) -> Items:
        """The same items; the time they take is added up."""
        return _TimedItems(items, self) if hasattr(items, "write") else items


class _TimedItems:
    """Items that tell how long they take to be made; for all else like those inside."""

    def __init__(self, items: MadeInPlace, making: _Making):
        self._items, self._making = items, making
        self.dtype, self.shape, self.nbytes = items.dtype, items.shape, items.nbytes
        self.device = device_of(items)

    def write(self, out: np.ndarray, first: int = 0) -> None:
        start = time.monotonic_ns()
        self._items.write(out, first)
        self._making.ns += time.monotonic_ns() - start

    def write_on_device(self, out: Any, stream: Stream, first: int = 0) -> None:
        start = time.monotonic_ns()
        self._items.write_on_device(out, stream, first)
        self._making.ns += time.monotonic_ns() - start

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, part: slice) -> _TimedItems:
        return _TimedItems(self._items[part], self._making)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        start = time.monotonic_ns()
        batch = np.asarray(self._items, dtype)
        self._making.ns += time.monotonic_ns() - start
        return batch


def _nbytes(arrays: Mapping[str, Any]) -> int:
    return sum(getattr(array, "nbytes", 0) for array in arrays.values())
