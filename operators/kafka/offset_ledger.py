"""Which messages of a topic are done with: the offsets that may be committed, each partition in its order."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass

from pipeline.packet import Packet

# A packet that an operator swallows leaves no trace as long as its stream brings no other. It counts as done
# with once one that was given so much later is, so that a silent stream does not hold up its partition.
SWALLOWED_S = 60.0


@dataclass(slots=True)
class _Given:
    place: Hashable
    offset: int
    at: float
    run: str = ""
    seq: int = -1
    done: bool = False


class Ledger:
    """The offsets that were given out, and which of them are done. Any thread may call.

    A partition (`place`) may be committed up to its first offset that is not done.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._changed = threading.Condition()
        self._given: dict[Hashable, deque[_Given]] = {}  # by place
        self._waiting: dict[str, deque[_Given]] = {}  # by stream, of its packets
        self._done: dict[Hashable, int] = {}  # the offset behind all that is done
        self._newest: dict[Hashable, float] = {}  # when the latest packet that is done was given
        self.swallowed = 0  # packets that never came back

    def give(self, place: Hashable, offset: int, packet: Packet | None = None) -> Callable[[], None]:
        """The message at `offset` is out; what is returned says that it is done, where it is no packet."""
        with self._changed:
            given = _Given(place, offset, self._clock())
            self._given.setdefault(place, deque()).append(given)
            if packet is not None:
                given.run, given.seq = packet.run, packet.seq
                self._waiting.setdefault(packet.stream, deque()).append(given)
        return lambda: setattr(given, "done", True)

    def finish(self, packet: Packet) -> None:
        """This packet is done with, and with it whatever was given of its stream before."""
        with self._changed:
            waiting = self._waiting.get(packet.stream, ())
            index = next(
                (i for i, g in enumerate(waiting) if g.seq == packet.seq and g.run == packet.run), None
            )
            if index is None:  # told twice, or of a partition that is no longer ours
                return
            for _ in range(index + 1):
                given = waiting.popleft()  # type: ignore[union-attr]
                given.done = True
                self._newest[given.place] = max(given.at, self._newest.get(given.place, 0.0))
            if not waiting:
                del self._waiting[packet.stream]
            self._changed.notify_all()

    def positions(self) -> dict[Hashable, int]:
        """The offset from which each partition would have to be read again."""
        with self._changed:
            for place, given in self._given.items():
                behind = self._newest.get(place, 0.0) - SWALLOWED_S
                while given and (given[0].done or given[0].at < behind):
                    first = given.popleft()
                    self._done[place] = first.offset + 1
                    if not first.done:
                        self.swallowed += 1
                        self._drop([first])
            return dict(self._done)

    def forget(self, places: Collection[Hashable]) -> None:
        """These partitions are another's now."""
        with self._changed:
            for place in places:
                self._drop([given for given in self._given.pop(place, ()) if not given.done])
                self._done.pop(place, None)
                self._newest.pop(place, None)
            self._changed.notify_all()

    def wait(self, places: Collection[Hashable] | None = None, timeout_s: float = 0.0) -> bool:
        """Wait until nothing of these partitions (None: of any) is out; False if something still is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._out(places), timeout_s)

    def _out(self, places: Collection[Hashable] | None) -> bool:
        return any(
            not given.done
            for waiting in self._waiting.values()
            for given in waiting
            if places is None or given.place in places
        )

    def out(self) -> Counter[str]:
        """How many packets of each stream are out."""
        with self._changed:
            return Counter({stream: len(waiting) for stream, waiting in self._waiting.items()})

    def _drop(self, dropped: list[_Given]) -> None:
        gone = set(map(id, dropped))
        for stream, waiting in list(self._waiting.items()):
            kept = deque(given for given in waiting if id(given) not in gone)
            if kept:
                self._waiting[stream] = kept
            else:
                del self._waiting[stream]
