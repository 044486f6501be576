"""The queue of one camera in `sync`: frames that wait for other cameras, and the events between them."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from operators.cameras.frame_matching import NEVER
from pipeline.packet import End, Event, Packet

Item = Packet | Event | End

STEPS = 32  # the shortest of this many steps between frames says how soon the next frame may come


class Held(NamedTuple):
    """An item in the queue of a camera."""

    item: Item
    time_ns: int  # of a frame
    since_ns: int  # when it came, by the monotonic clock


class FrameQueue:
    """A camera's queue. Its first frames, up to the next event, end or step back in time, can be matched."""

    def __init__(self) -> None:
        self.held: deque[Held] = deque()
        self.times: deque[int] = deque()  # of the frames that can be matched
        self.has_begun = False  # it has given a frame
        self.lost = False
        self._newest_ns: int | None = None  # time of the newest frame; None: the next one may have any time
        self._steps: deque[int] = deque(maxlen=STEPS)

    def put(self, held: Held) -> None:
        """Add an item at the end."""
        self.held.append(held)
        self._match_next(len(self.held) - 1)
        if not isinstance(held.item, Packet):
            self._newest_ns = None
            return
        self.has_begun, self.lost = True, False
        if self._newest_ns is not None and held.time_ns > self._newest_ns:
            self._steps.append(held.time_ns - self._newest_ns)
        self._newest_ns = held.time_ns

    def take(self) -> Held:
        """Remove and return the first item."""
        if self.times:
            self.times.popleft()
        taken = self.held.popleft()
        if not self.times:
            for index in range(len(self.held)):
                if not self._match_next(index):
                    break
        return taken

    def _match_next(self, index: int) -> bool:
        """Add item `index` to `times` if it is a frame that follows the last one there."""
        held = self.held[index]
        follows = index == len(self.times) and isinstance(held.item, Packet)
        if follows := follows and (not self.times or held.time_ns >= self.times[-1]):
            self.times.append(held.time_ns)
        return follows

    @property
    def clock_went_back(self) -> bool:
        """Whether the frames that can be matched are followed by frames of an earlier time."""
        n = len(self.times)
        return n < len(self.held) and isinstance(self.held[n].item, Packet)

    def earliest_next(self, live: bool) -> float:
        """The earliest time that a frame after `times` may have; `NEVER` if no more can be matched with them.

        In a live run this assumes the shortest step of late; a frame may still come sooner.
        """
        if self.lost or len(self.times) < len(self.held):
            return NEVER
        if self._newest_ns is None:
            return -NEVER
        return self._newest_ns + (min(self._steps, default=0) if live else 0)
