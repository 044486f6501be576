"""Keeps sources side by side that are read as fast as they can be, where a stage joins what they give."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pipeline.packet import End, Item, Packet

AHEAD_NS = 1_000_000_000


class Pace:
    """Lets no source be more than a second ahead of another, each by its own `pts_ns`.

    Without it the packets of the fastest would fill the memory while they wait for those of the slowest.
    """

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._at_ns: dict[str, int | None] = {}  # sources that are being read; None before their first packet

    def join(self, source: str) -> Paced:
        """A source that is going to be read: what stands in front of its edges."""
        self._at_ns[source] = None
        return Paced(self, source)

    def reach(self, source: str, at_ns: int) -> None:
        """Wait until no other source is too far behind this time."""
        with self._turn:
            if source not in self._at_ns:
                return
            self._at_ns[source] = at_ns
            self._turn.notify_all()
            while any(other is None or other < at_ns - AHEAD_NS for other in self._at_ns.values()):
                self._turn.wait()

    def leave(self, source: str) -> None:
        """Nobody need wait for this source any more."""
        with self._turn:
            self._at_ns.pop(source, None)
            self._turn.notify_all()


class Paced:
    """The pace as one source sees it."""

    def __init__(self, pace: Pace, source: str):
        self._pace, self._source = pace, source

    def put(self, items: Sequence[Item]) -> None:
        """Wait for the turn of these items; its end, or a stream of another name, ends its part."""
        for item in items:
            if isinstance(item, End) or item.stream != self._source:
                self._pace.leave(self._source)
            elif isinstance(item, Packet):
                self._pace.reach(self._source, item.pts_ns)
