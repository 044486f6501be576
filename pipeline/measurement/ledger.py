"""Ledgers of packets: what came in at one place (a stage, an edge, a source) and what became of it.

For each stream, taken + repeated = given + dropped + in flight. Every term is counted where it happens. A
difference between the two sides is a fault of the place, which `faults.py` names.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeVar

from pipeline.packet import End, Event, Item, Packet, Taken

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


def forget_losses(losses: Losses, streams: Collection[str]) -> None:
    """Move the losses of these streams to the stream ""."""
    for stream, reason in [key for key in losses if key[0] in streams]:
        losses["", reason] += losses.pop((stream, reason))


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
                forget_losses(counter, streams)
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


@dataclass(slots=True)
class _Account:
    """One stream in a book."""

    taken: int = 0
    given: int = 0
    newest: int = -1  # seq of the last packet given
    # Packets taken before each end that is still in the operator, and before the last end that has left it.
    before_ends: deque[int] = field(default_factory=deque)
    before_end: int = 0


NOBODY = _Account()


class Book:
    """Keeps the ledger of the workers of one inbox, or of one source; any thread may take a snapshot.

    A call begins with the items that it takes, and is settled when its results are on the edges; in between,
    its packets are in flight. With `holds` the operator may keep packets for later calls: they are in flight
    until the end of their stream has left the operator.

    The calls that give packets of one stream are settled in the order of these packets.
    """

    def __init__(self, *, holds: bool = False):
        self._holds = holds
        self._lock = threading.Lock()
        self._accounts: dict[str, _Account] = {}
        self._calls: dict[int, Sequence[Taken]] = {}  # ticket: what the call has taken
        self._dropped: Losses = Counter()
        self._repeated: Counter[str] = Counter()
        self._reordered: Counter[str] = Counter()
        self._forgotten = Ledger()
        self._closed = False

    def begin(self, ticket: int, batch: Sequence[Taken]) -> None:
        """A call with this number begins; it has taken these items."""
        self._calls[ticket] = batch

    def settle(self, ticket: int, items: Sequence[Item], dropped: Sequence[tuple[str, str]] = ()) -> None:
        """The results of a call are on the edges; `dropped` has (stream, reason) of each dropped packet."""
        accounts = self._accounts
        with self._lock:
            account, stream = NOBODY, None
            for _, taken in self._calls.pop(ticket):
                if isinstance(taken, Packet):
                    if taken.stream is not stream:  # most calls are of one stream
                        stream = taken.stream
                        account = accounts.get(stream) or self._new_account(stream)
                    account.taken += 1
                else:
                    self._take_other(taken)
            for item in items:
                if item.stream is not stream:
                    stream = item.stream
                    account = accounts.get(stream) or self._new_account(stream)
                if isinstance(item, Packet):
                    account.given += 1
                    if item.seq <= account.newest:
                        self._note_disorder(item, account)
                    account.newest = item.seq
                else:
                    self._give_other(item, account)
            for loss in dropped:
                self._dropped[loss] += 1

    def close(self) -> None:
        """The operators are closed: they hold nothing any more."""
        self._closed = True

    def forget(self, streams: Collection[str]) -> None:
        """Keep only the sums of these streams, which have ended.

        The end of a stream may have reached the last stage before the call that gave it is settled here. A
        stream whose end has not left yet keeps its account.
        """
        with self._lock:
            in_calls = {_stream_of(item) for batch in list(self._calls.values()) for _, item in batch}
            kept = in_calls | {stream for stream, account in self._accounts.items() if account.before_ends}
            streams = set(streams) - kept
            for stream in streams:
                if account := self._accounts.pop(stream, None):
                    self._forgotten.taken[""] += account.taken
                    self._forgotten.given[""] += account.given
            self._forgotten.dropped.update(self._dropped)
            self._forgotten.repeated.update(self._repeated)
            self._forgotten.reordered.update(self._reordered)
            self._forgotten.forget(streams)
            for counter in (self._dropped, self._repeated, self._reordered):
                counter.clear()

    def snapshot(self) -> Ledger:
        """The ledger at this moment."""
        with self._lock:
            return self._count()

    def _count(self) -> Ledger:
        now = Ledger()
        now.add(self._forgotten)
        for stream, account in self._accounts.items():
            now.taken[stream] += account.taken
            now.given[stream] += account.given
        now.dropped.update(self._dropped)
        now.repeated.update(self._repeated)
        now.reordered.update(self._reordered)
        for batch in list(self._calls.values()):  # in one step: workers open calls meanwhile
            for _, item in batch:
                if not isinstance(item, Event | End):
                    stream = _stream_of(item)
                    now.taken[stream] += 1
                    now.in_flight[stream] += 1
        if self._holds and not self._closed:
            for stream, missing in now.balance().items():
                if holder := self._accounts.get(stream):
                    now.in_flight[stream] += max(min(missing, holder.taken - holder.before_end), 0)
        return now

    def _new_account(self, stream: str) -> _Account:
        account = self._accounts[stream] = _Account()
        return account

    def _take_other(self, item: Event | End | tuple[Packet, ...]) -> None:
        stream = _stream_of(item)
        account = self._accounts.get(stream) or self._new_account(stream)
        if isinstance(item, tuple):  # joined parts, which become one packet
            account.taken += 1
        elif isinstance(item, End):
            account.before_ends.append(account.taken)

    def _give_other(self, item: Event | End, account: _Account) -> None:
        if isinstance(item, End):
            account.newest = -1
            if account.before_ends:
                account.before_end = account.before_ends.popleft()
        elif item.resets:  # the numbers of the stream may begin anew
            account.newest = -1

    def _note_disorder(self, packet: Packet, account: _Account) -> None:
        kind = self._repeated if packet.seq == account.newest else self._reordered
        kind[packet.stream] += 1


def _stream_of(item: Item | tuple[Packet, ...]) -> str:
    return item[0].stream if isinstance(item, tuple) else item.stream


def _difference(now: Counter[T], earlier: Counter[T]) -> Counter[T]:
    difference = now.copy()
    difference.subtract(earlier)
    return Counter({key: packets for key, packets in difference.items() if packets})
