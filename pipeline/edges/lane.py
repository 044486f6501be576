"""A lane: the bounded queue that carries the packets of one edge to one inbox.

Every lane accounts for its packets: received = delivered + dropped + in flight, at all times.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Literal

from pipeline.measurement.metrics import Losses
from pipeline.packet import End, Item, Packet

Policy = Literal["block", "drop_oldest", "drop_newest", "latest"]
Queued = tuple[int, Item]  # monotonic ns at which it was queued, and the item


class Lane:
    """The queue of one edge into one inbox; the lock of the inbox guards it.

    Streams take turns; the items of each stay in order. A lane that drops holds `capacity` packets of each
    stream and drops only packets of the stream that has too many, so that no camera starves another. A lane
    that blocks holds `capacity` packets of all streams together.
    """

    __slots__ = (
        "capacity", "closed", "delivered", "dropped", "max_age_ns", "others", "packets", "policy", "queues",
        "received", "turns",
    )  # fmt: skip

    def __init__(self, capacity: int, policy: Policy, max_age_ns: int | None = None):
        self.capacity = 1 if policy == "latest" else capacity
        self.policy = policy
        self.max_age_ns = max_age_ns  # age since the packet entered the graph; older packets are dropped
        self.queues: dict[str, deque[Queued]] = {}
        self.turns: deque[str] = deque()  # streams with queued items, the next one first
        self.packets = 0  # of all streams
        self.others = 0  # events and ends of streams; they need no capacity
        self.received = 0
        self.delivered = 0
        self.dropped: Losses = Counter()
        self.closed = False

    @property
    def full(self) -> bool:
        """Whether a producer must wait, if the policy is `block`."""
        return self.packets >= self.capacity

    def at_limit(self, stream: str) -> bool:
        """Whether one more packet of this stream would have to wait, or would cost a packet."""
        if self.policy == "block":
            return self.full
        queue = self.queues.get(stream)
        return queue is not None and self._holds(queue) >= self.capacity

    def append(self, now: int, item: Item) -> None:
        """Queue an item; a full lane that does not block drops a packet, never an event or an end."""
        stream = item.stream
        queue = self.queues.get(stream)
        if queue is None:
            queue = self.queues[stream] = deque()
        if isinstance(item, Packet):
            self.received += 1
            if self.policy != "block" and self.at_limit(stream):
                self.dropped[stream, "full"] += 1
                if self.policy == "drop_newest":
                    return
                _drop_oldest(queue)
                self.packets -= 1
            self.packets += 1
        else:
            self.others += 1
        if not queue and stream not in self.turns:
            self.turns.append(stream)
        queue.append((now, item))

    def _holds(self, queue: deque[Queued]) -> int:
        """The number of packets in the queue of one stream."""
        return sum(isinstance(item, Packet) for _, item in queue) if self.others else len(queue)

    def pop(self) -> Queued | None:
        """Take the oldest item of the stream whose turn it is, dropping packets that are too old."""
        while self.turns:
            stream = self.turns.popleft()
            queue = self.queues[stream]
            queued = queue.popleft()
            if queue:
                self.turns.append(stream)
            item = queued[1]
            if not isinstance(item, Packet):
                self.others -= 1
                if isinstance(item, End) and not queue:
                    del self.queues[stream]
                return queued
            self.packets -= 1
            if self.max_age_ns is None or time.time_ns() - item.entered_ns <= self.max_age_ns:
                return queued
            self.dropped[stream, "stale"] += 1
        return None

    def discard(self, reason: str) -> None:
        """Drop all queued packets for this reason."""
        for stream, queue in self.queues.items():
            kept = [queued for queued in queue if not isinstance(queued[1], Packet)]
            if packets := len(queue) - len(kept):
                self.dropped[stream, reason] += packets
            queue.clear()
            queue.extend(kept)
        self.turns = deque(stream for stream in self.turns if self.queues[stream])
        self.packets = 0


def _drop_oldest(queue: deque[Queued]) -> None:
    del queue[next(i for i, (_, item) in enumerate(queue) if isinstance(item, Packet))]
