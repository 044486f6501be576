"""Reads files side by side, if a stage of the graph needs frames of all of them at the same time."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pipeline.packet import End, Item, Packet

AHEAD_NS = 1_000_000_000


class Pace:
    """Lets no source get more than a second of its own `pts_ns` ahead of another.

    Without it the packets of the fastest source would fill the memory while they wait for the slowest.
    """

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._at_ns: dict[str, int | None] = {}  # by source: newest pts_ns, None before its first packet

    def join(self, source: str) -> Paced:
        """Add a source that is going to be read. Returns its place, to be put before its edges."""
        self._at_ns[source] = None
        return Paced(self, source)

    def reach(self, source: str, at_ns: int) -> None:
        """A source has reached this time: wait until no other source is too far behind it."""
        with self._turn:
            if source not in self._at_ns:
                return
            self._at_ns[source] = at_ns
            self._turn.notify_all()
            while any(other is None or other < at_ns - AHEAD_NS for other in self._at_ns.values()):
                self._turn.wait()

    def leave(self, source: str) -> None:
        """Stop waiting for this source."""
        with self._turn:
            self._at_ns.pop(source, None)
            self._turn.notify_all()


class Paced:
    """The place of one source in a `Pace`; stands where an edge would."""

    def __init__(self, pace: Pace, source: str):
        self._pace, self._source = pace, source

    def put(self, items: Sequence[Item]) -> None:
        """Wait until these items may go on. At its end, or a stream of another name, the source leaves."""
        for item in items:
            if isinstance(item, End) or item.stream != self._source:
                self._pace.leave(self._source)
            elif isinstance(item, Packet):
                self._pace.reach(self._source, item.pts_ns)
