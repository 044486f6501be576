"""Ledgers of packets: what came in at one place (a stage, an edge, a source) and what became of it.

For each stream, taken + repeated = given + dropped + in flight. Every term is counted where it happens. A
difference between the two sides is a fault of the place, which `faults.py` names.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeVar

from pipeline.packet import End, Item, Packet

T = TypeVar("T")

# (stream, reason): packets. The stream is "" for the streams that a run has forgotten.
Losses = Counter[tuple[str, str]]


def by_reason(losses: Losses) -> dict[str, int]:
    """Add up the losses of all streams: reason to packets."""
    reasons: Counter[str] = Counter()
    for (_, reason), packets in losses.items():
        reasons[reason] += packets
    return {reason: packets for reason, packets in reasons.items() if packets}


def by_stream(losses: Losses) -> Counter[str]:
    """Add up the losses of all reasons: stream to packets."""
    streams: Counter[str] = Counter()
    for (stream, _), packets in losses.items():
        streams[stream] += packets
    return streams


@dataclass(slots=True, eq=False)
class Ledger:
    """The packets of each stream at one place, at one moment or between two (`since`)."""

    taken: Counter[str] = field(default_factory=Counter)
    given: Counter[str] = field(default_factory=Counter)
    dropped: Losses = field(default_factory=Counter)
    in_flight: Counter[str] = field(default_factory=Counter)
    in_flight_before: Counter[str] = field(default_factory=Counter)  # when the time that it covers began
    repeated: Counter[str] = field(default_factory=Counter)  # given a second time, right after the first
    reordered: Counter[str] = field(default_factory=Counter)  # given after a later packet of their stream

    def add(self, other: Ledger) -> None:
        """Add what was counted at another place."""
        for name in FIELDS:
            getattr(self, name).update(getattr(other, name))

    def since(self, earlier: Ledger) -> Ledger:
        """Return what was counted after `earlier`; negative for a stream that was forgotten in between."""
        return Ledger(
            taken=_difference(self.taken, earlier.taken),
            given=_difference(self.given, earlier.given),
            dropped=_difference(self.dropped, earlier.dropped),
            repeated=_difference(self.repeated, earlier.repeated),
            reordered=_difference(self.reordered, earlier.reordered),
            in_flight=self.in_flight,
            in_flight_before=earlier.in_flight,
        )

    def forget(self, streams: Collection[str]) -> None:
        """Move the figures of these streams to the stream "", which stands for all forgotten streams."""
        for name in FIELDS:
            counter = getattr(self, name)
            if name == "dropped":
                for stream, reason in [key for key in counter if key[0] in streams]:
                    counter["", reason] += counter.pop((stream, reason))
            else:
                for stream in streams:
                    if packets := counter.pop(stream, 0):
                        counter[""] += packets

    def balance(self) -> Counter[str]:
        """By stream: the packets that are unaccounted for; below 0 where more were given than taken."""
        balance = self.taken.copy()
        balance.update(self.in_flight_before)
        balance.update(self.repeated)
        balance.subtract(self.given)
        balance.subtract(by_stream(self.dropped))
        balance.subtract(self.in_flight)
        return Counter({stream: packets for stream, packets in balance.items() if packets})


FIELDS = tuple(one.name for one in fields(Ledger))


class Book:
    """Keeps the ledger of one worker, or of one source. Its thread writes; any thread may take a snapshot.

    A call takes packets, and is settled when its results are on the edges; in between, its packets are in
    flight. With `holds` the operator may keep packets for later calls: they are in flight until the end of
    their stream has left the operator. `newest` holds the number of the last packet of each stream; the
    workers of a stage share it.
    """

    def __init__(self, newest: dict[str, int] | None = None, *, holds: bool = False):
        self._ledger = Ledger()
        self._newest = {} if newest is None else newest
        self._lock = threading.Lock()
        self._calls: deque[Sequence[str]] = (
            deque()
        )  # the streams of the packets of each call, not yet settled
        self._holds = holds
        self._ends: dict[str, deque[int]] = {}  # packets taken before each end that is still in the operator
        self._over: Counter[str] = Counter()  # packets taken before the last end that has left it
        self._closed = False

    def take(self, streams: Sequence[str]) -> None:
        """A call begins; it takes packets of these streams."""
        with self._lock:
            taken = self._ledger.taken
            for stream in streams:
                taken[stream] += 1
            self._calls.append(streams)

    def take_end(self, stream: str) -> None:
        """The end of a stream is about to enter the operator."""
        if self._holds:
            with self._lock:
                self._ends.setdefault(stream, deque()).append(self._ledger.taken[stream])

    def settle(self, items: Iterable[Item], dropped: Iterable[tuple[str, str]]) -> None:
        """The results of the oldest call are on the edges; `dropped` has its (stream, reason)."""
        newest = self._newest
        with self._lock:
            self._calls.popleft()
            given = self._ledger.given
            for item in items:
                stream = item.stream
                if isinstance(item, Packet):
                    given[stream] += 1
                    seq = item.seq
                    if seq <= newest.get(stream, -1):
                        self._note_disorder(stream, seq)
                    newest[stream] = seq
                elif isinstance(item, End):
                    newest.pop(stream, None)
                    self._note_end(stream)
                elif item.resets:
                    newest.pop(stream, None)
            for loss in dropped:
                self._ledger.dropped[loss] += 1

    def close(self) -> None:
        """The operator is closed: it holds nothing any more."""
        self._closed = True

    def forget(self, streams: Collection[str]) -> None:
        """Move the figures of these ended streams to the stream ""."""
        with self._lock:
            self._ledger.forget(streams)
            for stream in streams:
                self._over[""] += self._over.pop(stream, 0)

    def snapshot(self) -> Ledger:
        """The ledger at this moment."""
        with self._lock:
            now = Ledger()
            now.add(self._ledger)
            calls = Counter(stream for streams in self._calls for stream in streams)
            if self._holds and not self._closed:
                balance = now.balance()
                for stream, packets in balance.items():
                    held = min(packets, now.taken[stream] - self._over[stream])
                    if held > 0:
                        now.in_flight[stream] = held
            else:
                now.in_flight = calls
            return now

    def _note_disorder(self, stream: str, seq: int) -> None:
        kind = self._ledger.repeated if seq == self._newest[stream] else self._ledger.reordered
        kind[stream] += 1

    def _note_end(self, stream: str) -> None:
        if before := self._ends.get(stream):
            self._over[stream] = before.popleft()
            if not before:
                del self._ends[stream]


def _difference(now: Counter[T], earlier: Counter[T]) -> Counter[T]:
    difference = now.copy()
    difference.subtract(earlier)
    return Counter({key: packets for key, packets in difference.items() if packets})
