"""Hands packets from the thread that reads a camera to the one that decodes; skips some if that is slow."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from av.packet import Packet

from operators.decoding.times import SECOND_NS

BEHIND_S = 1.0  # packets that have waited this long for the decoder are skipped, up to a key frame


class Arrival(NamedTuple):
    """A packet of a camera."""

    packet: Packet
    arrived_ns: int  # UNIX time, by this machine's clock
    captured_ns: int | None  # UNIX time, by the camera's clock, if the camera gives it
    skipped: int  # packets before it that were left out because they had waited too long


class PacketQueue:
    """The packets of one connection. One thread calls `put` and `end`; any other thread the rest."""

    def __init__(self, clock: Callable[[], int]):
        """`clock` gives UNIX time in ns."""
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[Arrival] = deque()
        self._skipped = 0  # since the last packet in the queue
        self._needs_key_frame = True
        self._interrupted = False
        self._error: Exception | None = None
        self.closed = threading.Event()

    def put(self, packet: Packet, captured_ns: int | None) -> None:
        """Add a packet, unless the queue is closed or the key frame that the packet needs is missing."""
        now_ns = self._clock()
        with self._changed:
            if self.closed.is_set():
                return
            if packet.is_keyframe:
                self._needs_key_frame = False
            if self._needs_key_frame:
                self._skipped += self._skipped > 0  # packets before the very first key frame do not count
                return
            self._waiting.append(Arrival(packet, now_ns, captured_ns, self._skipped))
            self._skipped = 0
            if now_ns - self._waiting[0].arrived_ns > BEHIND_S * SECOND_NS:
                self._catch_up()
            self._changed.notify_all()

    def end(self, error: Exception) -> None:
        """There will be no more packets; `take` raises `error` after the last one."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Arrival | None:
        """The next packet; None if none comes in time, or after `interrupt`.

        Raises:
            Exception: the error that `end` was given.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._error or self._interrupted, timeout_s)
            if self._interrupted:
                return None
            if self._waiting:
                return self._waiting.popleft()
            if self._error:
                raise self._error
            return None

    def interrupt(self) -> None:
        """Make `take` return at once, now and from now on."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def close(self) -> None:
        """Drop all packets and accept no more."""
        with self._changed:
            self.closed.set()
            self._waiting.clear()

    def _catch_up(self) -> None:
        """The decoder is too slow: skip to the newest key frame, or wait for the next one."""
        waiting = self._waiting
        newest = max((i for i, arrival in enumerate(waiting) if arrival.packet.is_keyframe), default=0)
        left_out = [waiting.popleft() for _ in range(newest or len(waiting))]
        skipped = len(left_out) + sum(arrival.skipped for arrival in left_out)
        if waiting:
            waiting[0] = waiting[0]._replace(skipped=skipped)
        else:
            self._skipped, self._needs_key_frame = skipped, True
