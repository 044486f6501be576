"""A lane: the bounded queue that carries the packets of one edge to one inbox.

Every lane accounts for its packets: received = delivered + dropped + in flight, at all times.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from pipeline.measurement.ledger import Ledger, Losses, forget_losses
from pipeline.packet import Item, Packet

Policy = Literal["block", "drop_oldest", "drop_newest", "latest"]
Queued = tuple[int, Item]  # monotonic ns at which it was queued, and the item


@dataclass(slots=True)
class _StreamQueue:
    """What one stream has in a lane, and the stream's part of the ledger."""

    items: deque[Queued] = field(default_factory=deque)
    received: int = 0
    delivered: int = 0


class Lane:
    """The queue of one edge into one inbox; the lock of the inbox guards it.

    Streams take turns; the items of each stay in order. A lane that drops holds `capacity` packets of each
    stream and drops only packets of the stream that has too many, so that no camera starves another. A lane
    that blocks holds `capacity` packets of all streams together.
    """

    __slots__ = (
        "capacity", "closed", "dropped", "forgotten", "joined", "max_age_ns", "others", "packets", "policy",
        "queues", "turns",
    )  # fmt: skip

    def __init__(self, capacity: int, policy: Policy, max_age_ns: int | None = None):
        self.capacity = 1 if policy == "latest" else capacity
        self.policy = policy
        self.max_age_ns = max_age_ns  # age since the packet entered the graph; older packets are dropped
        self.queues: dict[str, _StreamQueue] = {}
        self.turns: deque[str] = deque()  # streams with queued items, the next one first
        self.packets = 0  # of all streams
        self.others = 0  # events and ends of streams
        self.dropped: Losses = Counter()
        self.forgotten = Ledger()  # the sums of forgotten streams
        self.closed = False
        self.joined = False  # packets wait for their partners after this lane; the inbox sets it

    @property
    def full(self) -> bool:
        """Whether a producer must wait, if the policy is `block`."""
        return self.packets >= self.capacity

    def at_limit(self, stream: str) -> bool:
        """Whether one more packet of this stream would have to wait, or would cost a packet."""
        if self.policy == "block":
            return self.full
        queue = self.queues.get(stream)
        return queue is not None and self._packets_in(queue) >= self.capacity

    def append(self, now: int, item: Item) -> None:
        """Queue an item; a full lane that does not block drops a packet, never an event or an end."""
        stream = item.stream
        queue = self.queues.get(stream)
        if queue is None:
            queue = self.queues[stream] = _StreamQueue()
        if isinstance(item, Packet):
            queue.received += 1
            if self.policy != "block" and self._packets_in(queue) >= self.capacity:
                self.dropped[stream, "full"] += 1
                if self.policy == "drop_newest":
                    return
                _drop_oldest(queue.items)
            else:
                self.packets += 1
        else:
            self.others += 1
        if not queue.items and stream not in self.turns:
            self.turns.append(stream)
        queue.items.append((now, item))

    def _packets_in(self, queue: _StreamQueue) -> int:
        """The packets that one stream has in the queue; events and ends need no capacity."""
        if not self.others:
            return len(queue.items)
        return sum(isinstance(item, Packet) for _, item in queue.items)

    def pop(self) -> Queued | None:
        """Take the oldest item of the stream whose turn it is, dropping packets that are too old."""
        while self.turns:
            stream = self.turns.popleft()
            queue = self.queues[stream]
            queued = queue.items.popleft()
            if queue.items:
                self.turns.append(stream)
            item = queued[1]
            if not isinstance(item, Packet):
                self.others -= 1
                return queued
            self.packets -= 1
            if self.max_age_ns is None or time.time_ns() - item.entered_ns <= self.max_age_ns:
                if not self.joined:
                    queue.delivered += 1
                return queued
            self.dropped[stream, "stale"] += 1
        return None

    def discard(self, reason: str) -> None:
        """Drop all queued packets for this reason."""
        for stream, queue in self.queues.items():
            kept = [queued for queued in queue.items if not isinstance(queued[1], Packet)]
            if packets := len(queue.items) - len(kept):
                self.dropped[stream, reason] += packets
            queue.items.clear()
            queue.items.extend(kept)
        self.turns = deque(stream for stream in self.turns if self.queues[stream].items)
        self.packets = 0

    def deliver(self, packet: Packet) -> None:
        """Count a packet that a worker has taken as a part of a join."""
        self.queues[packet.stream].delivered += 1

    def forget(self, streams: Collection[str]) -> None:
        """Keep only the sums of these streams, which have ended."""
        empty = {stream for stream in streams if stream in self.queues and not self.queues[stream].items}
        for stream in empty:
            queue = self.queues.pop(stream)
            self.forgotten.taken[""] += queue.received
            self.forgotten.given[""] += queue.delivered
        forget_losses(self.dropped, empty)

    def ledger(self) -> Ledger:
        """What came into this lane and what became of it, without packets that wait in a joiner."""
        ledger = Ledger()
        ledger.add(self.forgotten)
        for stream, queue in self.queues.items():
            ledger.taken[stream] += queue.received
            ledger.given[stream] += queue.delivered
            if packets := self._packets_in(queue):
                ledger.in_flight[stream] = packets
        ledger.dropped.update(self.dropped)
        return ledger


def _drop_oldest(items: deque[Queued]) -> None:
    del items[next(i for i, (_, item) in enumerate(items) if isinstance(item, Packet))]
