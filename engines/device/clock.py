"""Times of a CUDA device on the clock of the host."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from engines.device.streams import Device, Stream

ANCHOR_EVERY_NS = 5_000_000_000  # CUDA tells times in float32 ms, which after 8 s are right to 1 µs only
ANCHOR_TRIES = 5


class _Anchor(NamedTuple):
    event: Any
    at_ns: int

    def time(self, event: Any) -> int:
        return self.at_ns + round(self.event.elapsed_time(event) * 1e6)


class DeviceClock:
    """Tells when work on a device began and ended, in ns of the host's monotonic clock, once it is done.

    CUDA only tells how much later one event was than another. One whose moment the host knows, since it
    waited for it on a stream that does nothing else, anchors all others; it is taken anew now and then, since
    clocks drift. No other work is waited for.

    Args:
        device: that works.
        new_event: makes an event that keeps its time, as PyTorch's with `enable_timing`.
        clock: of the host.
    """

    def __init__(
        self, device: Device, new_event: Callable[[], Any], clock: Callable[[], int] = time.monotonic_ns
    ):
        self._stream = device.new_stream()
        self._new_event, self._clock = new_event, clock
        self._running: deque[tuple[_Anchor, Any, Any]] = deque()  # the anchor of its time, begin, end
        self._anchor = self._take_anchor()

    def begin(self, stream: Stream) -> None:
        """What is given to the stream from now on is measured."""
        if self._clock() - self._anchor.at_ns > ANCHOR_EVERY_NS:
            self._anchor = self._take_anchor()
        self._begin = self._mark(stream)

    def end(self, stream: Stream) -> None:
        """… until here."""
        self._running.append((self._anchor, self._begin, self._mark(stream)))

    def done(self) -> tuple[tuple[int, int], ...]:
        """Begin and end of what has ended since the last call, in order; what still runs is told later."""
        found = []
        while self._running and self._running[0][2].query():
            anchor, begin, end = self._running.popleft()
            found.append((anchor.time(begin), anchor.time(end)))
        return tuple(found)

    def _mark(self, stream: Stream) -> Any:
        event = self._new_event()
        with stream.use():
            event.record()
        return event

    def _take_anchor(self) -> _Anchor:
        """Of several tries the one whose moment is known best; what lies between was seen by both clocks."""
        tries = []
        for _ in range(ANCHOR_TRIES):
            before = self._clock()
            event = self._mark(self._stream)
            event.synchronize()
            took = self._clock() - before
            tries.append((took, _Anchor(event, before + took // 2)))
        return min(tries, key=lambda one: one[0])[1]
