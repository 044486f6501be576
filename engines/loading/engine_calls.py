"""Report every engine call to watchers: its time on the host and on the device, and the size of its batch."""

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
    """A model that was loaded while a watcher was registered."""

    model: str
    file: str
    backend: str
    threads: int


class EngineCall(NamedTuple):
    """One call of an engine."""

    engine: Loaded
    start_ns: int  # monotonic
    end_ns: int
    making_ns: int  # the part of this time that went into writing the inputs into the engine's memory
    items: int  # in the batch
    bytes_in: int
    bytes_out: int
    # Begin and end on the device, by the same clock, of the runs that ended since the last report, if the
    # engine measures them. They may belong to earlier calls, since the host does not wait for the device.
    device_ns: tuple[tuple[int, int], ...]
    copied: int | None  # bytes copied to and from the device; None without a device


class Watcher(Protocol):
    """Gets a report of each call, in the thread that makes the call, so its methods must be fast."""

    def engine_entered(self, engine: Loaded) -> None:
        """A call begins; `engine_left` follows, even if the call fails."""
        ...

    def engine_left(self, call: EngineCall) -> None:
        """The call has ended."""
        ...


# Global, since operators load their models themselves, in their own threads: no watcher can be passed to
# them. The tuple is only replaced, never changed, so that threads can read it without a lock.
_watchers: tuple[Watcher, ...] = ()
_changing = threading.Lock()


@contextmanager
def watch(watcher: Watcher) -> Iterator[None]:
    """Report the calls of all engines that are loaded in this context, by any thread, to `watcher`."""
    global _watchers
    with _changing:
        _watchers = (*_watchers, watcher)
    try:
        yield
    finally:
        with _changing:
            _watchers = tuple(other for other in _watchers if other is not watcher)


def watched(engine: Engine, loaded: Loaded) -> Engine:
    """The engine itself if there is no watcher; else a wrapper that reports its calls."""
    return WatchedEngine(engine, loaded) if _watchers else engine


class TimesDevice(Protocol):
    """An engine that can measure when the device worked for it; it measures only after `time_device`."""

    def time_device(self) -> None:
        """Measure from now on."""
        ...

    def device_times(self) -> tuple[tuple[int, int], ...]:
        """Begin and end, monotonic ns, of the runs that have ended since the last call; does not wait."""
        ...


class WatchedEngine:
    """Wraps an engine and reports its calls to the watchers; otherwise behaves like the engine."""

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
        """Run a batch as the engine does, and report the call."""
        if not (watchers := _watchers):
            return self._engine.run(inputs)
        outputs: dict[str, Any] = {}
        making = _MakingTime()
        timed = {name: making.timed(items) for name, items in inputs.items()}
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
        """Bytes that went from the host to a GPU or back; None without a GPU."""
        downloaded = sum(items.nbytes for items in inputs.values() if (device_of(items) or "cpu") != "cpu")
        if self.device == "cpu":
            return downloaded or None
        if downloaded and not any(isinstance(output, np.ndarray) for output in outputs.values()):
            return 0  # inputs and outputs stayed on the device
        return downloaded + _nbytes(inputs) + _nbytes(outputs)


class _MakingTime:
    """Adds up the time that items take to be written into the engine's memory during a call."""

    def __init__(self) -> None:
        self.ns = 0

    def timed(self, items: Items) -> Items:
        """The same items; if they are made in place, the time that this takes is added up here."""
        return _TimedItems(items, self) if hasattr(items, "write") else items


class _TimedItems:
    """Wraps items and adds up the time they take to be made; otherwise behaves like them."""

    def __init__(self, items: MadeInPlace, making: _MakingTime):
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
