"""Watch the calls of engines: how long each took, on the host and on the device, and what it was given."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from engines.backends.base import Engine, Items, MadeInPlace


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
    device_ns: tuple[int, int] | None  # begin and end on the device, by the same clock, where it can tell
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
    if not _watchers:
        return engine
    return WatchedOnDevice(engine, loaded) if hasattr(engine, "run_device") else Watched(engine, loaded)


class TimesDevice(Protocol):
    """An engine that can tell when the device worked for it; it does so only once it was asked to."""

    device_ns: tuple[int, int] | None  # of the last `run`: begin and end, monotonic

    def time_device(self) -> None:
        """Measure from now on."""
        ...


class Watched:
    """An engine whose calls are told to those who watch; for all else like the one inside."""

    def __init__(self, engine: Engine, loaded: Loaded):
        self._engine, self._loaded = engine, loaded
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self._timed = cast(TimesDevice, engine) if hasattr(engine, "time_device") else None
        if self._timed:
            self._timed.time_device()
        device = getattr(engine, "device", "cpu")  # ONNX Runtime's name, or PyTorch's object
        self._copies = self._timed is not None or getattr(device, "type", device) != "cpu"

    def run(self, inputs: Mapping[str, Items]) -> dict[str, np.ndarray]:
        """Run a batch, as the engine does, and tell of it."""
        if not (watchers := _watchers):
            return self._engine.run(inputs)
        given, outputs = _nbytes(inputs), {}
        making = _Making()
        timed = {name: making.of(items) for name, items in inputs.items()}
        start_ns = self._enter(watchers)
        try:
            outputs = self._engine.run(timed)
        finally:
            device_ns = self._timed.device_ns if self._timed and outputs else None
            moved = given + _nbytes(outputs) if self._copies else None
            self._leave(watchers, start_ns, inputs, outputs, device_ns, moved, making.ns)
        return outputs

    def close(self) -> None:
        """Free the model's memory."""
        self._engine.close()

    def _enter(self, watchers: tuple[Watcher, ...]) -> int:
        for watcher in watchers:
            watcher.engine_entered(self._loaded)
        return time.monotonic_ns()

    def _leave(
        self,
        watchers: tuple[Watcher, ...],
        start_ns: int,
        inputs: Mapping[str, Any],
        outputs: dict[str, Any],
        device_ns: tuple[int, int] | None,
        copied: int | None,
        making_ns: int = 0,
    ) -> None:
        end_ns = time.monotonic_ns()
        items, given, found = len(next(iter(inputs.values()), ())), _nbytes(inputs), _nbytes(outputs)
        call = EngineCall(self._loaded, start_ns, end_ns, making_ns, items, given, found, device_ns, copied)
        for watcher in watchers:
            watcher.engine_left(call)


class WatchedOnDevice(Watched):
    """The same, of an engine that also runs what lies on the device."""

    def run_device(self, inputs: dict[str, Any], after: Any = None) -> tuple[dict[str, Any], Any]:
        """Run a batch that lies on the device, as the engine does, and tell of it.

        Nothing waits for the device here, so it is not known yet how long that takes.
        """
        run_device = self._engine.run_device  # type: ignore[attr-defined]  # `watched` has looked
        if not (watchers := _watchers):
            return run_device(inputs, after)
        outputs: dict[str, Any] = {}
        start_ns = self._enter(watchers)
        try:
            outputs, done = run_device(inputs, after)
        finally:
            self._leave(watchers, start_ns, inputs, outputs, device_ns=None, copied=0)
        return outputs, done


class _Making:
    """How long items took to be made in the engine's memory, while its call went on."""

    def __init__(self) -> None:
        self.ns = 0

    def of(self, items: Items) -> Items:
        """The same items; the time they take is added up."""
        return items if isinstance(items, np.ndarray) else _TimedItems(items, self)


class _TimedItems:
    """Items that tell how long they take to be made; for all else like those inside."""

    def __init__(self, items: MadeInPlace, making: _Making):
        self._items, self._making = items, making
        self.dtype, self.shape, self.nbytes = items.dtype, items.shape, items.nbytes

    def write(self, out: np.ndarray, first: int = 0) -> None:
        start = time.monotonic_ns()
        self._items.write(out, first)
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
