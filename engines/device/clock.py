"""Times of work on a CUDA device, on the host's clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from engines.device.streams import Device, Stream

# CUDA gives the time between two events in float32 ms: after 8 s it is exact to 1 µs only.
ANCHOR_EVERY_NS = 5_000_000_000
ANCHOR_TRIES = 5


class _Anchor(NamedTuple):
    event: Any
    at_ns: int

    def time(self, event: Any) -> int:
        return self.at_ns + round(self.event.elapsed_time(event) * 1e6)


class DeviceClock:
    """Measures when work on a device began and ended, in ns of the host's monotonic clock.

    CUDA only gives the time between two events. So an anchor is needed: an event whose host time is known,
    since the host waited for it on a stream that has no other work. The times of all other events are
    relative to it. The anchor is renewed every five seconds, because the two clocks drift. The host waits for
    no other event.

    Args:
        device: the device that is measured.
        new_event: makes an event that records its time, such as PyTorch's with `enable_timing`.
        clock: the host's clock.
    """

    def __init__(
        self, device: Device, new_event: Callable[[], Any], clock: Callable[[], int] = time.monotonic_ns
    ):
        self._stream = device.new_stream()
        self._new_event, self._clock = new_event, clock
        self._running: deque[tuple[_Anchor, Any, Any]] = deque()  # the anchor of its time, begin, end
        self._anchor = self._take_anchor()

    def begin(self, stream: Stream) -> None:
        """Start a measurement of the work that is queued on `stream` until `end`."""
        if self._clock() - self._anchor.at_ns > ANCHOR_EVERY_NS:
            self._anchor = self._take_anchor()
        self._begin = self._record_on(stream)

    def end(self, stream: Stream) -> None:
        """End the measurement that `begin` started."""
        self._running.append((self._anchor, self._begin, self._record_on(stream)))

    def done(self) -> tuple[tuple[int, int], ...]:
        """(begin, end) in ns of the measurements that ended since the last call, in order; does not wait."""
        found = []
        while self._running and self._running[0][2].query():
            anchor, begin, end = self._running.popleft()
            found.append((anchor.time(begin), anchor.time(end)))
        return tuple(found)

    def _record_on(self, stream: Stream) -> Any:
        event = self._new_event()
        with stream.use():
            event.record()
        return event

    def _take_anchor(self) -> _Anchor:
        """The most exact of several anchors: the one with the shortest time between two host readings."""
        tries = []
        for _ in range(ANCHOR_TRIES):
            before = self._clock()
            event = self._record_on(self._stream)
            event.synchronize()
            took = self._clock() - before
            tries.append((took, _Anchor(event, before + took // 2)))
        return min(tries, key=lambda one: one[0])[1]
