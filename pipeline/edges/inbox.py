"""Edges: the bounded queues between stages, and the inbox in which a worker finds its packets.

Every edge accounts for its losses: received = delivered + dropped + in flight, at all times.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from typing import Literal

from pipeline.edges.join import Joiner
from pipeline.measurement.metrics import Losses, forget_losses
from pipeline.packet import End, Event, Packet

Policy = Literal["block", "drop_oldest", "drop_newest", "latest"]
Item = Packet | Event | End
Queued = tuple[int, Item]  # monotonic ns at which it was queued
Taken = tuple[int, Item | tuple[Packet, ...]]  # … with one packet of each input where several are joined


class Lane:
    """The queue of one edge into one inbox; its inbox's lock guards it.

    Streams take turns, each with its own items in order. A lane that drops holds `capacity` packets of each
    stream and drops that stream's own, so that no camera is starved by others; one that blocks holds so many
    of all streams together.
    """

    __slots__ = (
        "capacity", "closed", "delivered", "dropped", "max_age_ns", "others", "packets", "policy", "queues",
        "received", "turns",
    )  # fmt: skip

    def __init__(self, capacity: int, policy: Policy, max_age_ns: int | None = None):
        self.capacity = 1 if policy == "latest" else capacity
        self.policy = policy
        self.max_age_ns = max_age_ns  # since they entered the graph; older packets are not handed out
        self.queues: dict[str, deque[Queued]] = {}
        self.turns: deque[str] = deque()  # streams that have something here, the next one first
        self.packets = 0  # of all streams
        self.others = 0  # events and ends of streams, which do not count
        self.received = 0
        self.delivered = 0
        self.dropped: Losses = Counter()
        self.closed = False

    @property
    def full(self) -> bool:
        """Whether the next packet must wait, where the policy is to wait."""
        return self.packets >= self.capacity

    def at_limit(self, stream: str) -> bool:
        """Whether one more packet of a stream would wait, or cost one."""
        if self.policy == "block":
            return self.full
        queue = self.queues.get(stream)
        return queue is not None and self._holds(queue) >= self.capacity

    def append(self, now: int, item: Item) -> None:
        """Queue an item; a full lane that does not block loses a packet. Events and ends are never lost."""
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
        """The packets of one stream."""
        return sum(isinstance(item, Packet) for _, item in queue) if self.others else len(queue)

    def pop(self) -> Queued | None:
        """Take the oldest item of the stream whose turn it is; None if there is none that is not too old."""
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
        """Empty the queue of its packets, and count them."""
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


class Inbox:
    """Where one worker, or several workers alike, take their batches: one lane an input edge.

    With several input edges the packets are joined on (stream, seq) before they are handed out; of each
    stream at most `join_max` frames wait for their partners.
    """

    def __init__(self, lanes: Sequence[Lane], join_max: int | None = None):
        self.lanes = list(lanes)
        self._lock = threading.Lock()
        self._not_empty = threading.Condition(self._lock)  # for workers without a batch
        self._enough = threading.Condition(self._lock)  # for the one that gathers
        self._not_full = threading.Condition(self._lock)  # for producers
        several = len(self.lanes) > 1
        self._joiner = Joiner(len(self.lanes), join_max, self.lanes[0].max_age_ns) if several else None
        self._joined: deque[Taken] = deque()
        self._aborted = False
        self._tickets = 0
        self._lacking = 0  # items that a worker still gathers; 0 if none does

    def put(self, lane: Lane, items: Sequence[Item]) -> None:
        """Queue items on a lane of this inbox; waits while the lane is full and its policy is `block`."""
        now = time.monotonic_ns()
        blocks = lane.policy == "block"
        with self._lock:
            for item in items:
                if blocks and lane.full:
                    self._tell(len(items), at_once=True)  # else nobody would make room
                    while lane.full and not self._aborted:
                        self._not_full.wait()
                    now = time.monotonic_ns()
                lane.append(now, item)
                if self._aborted:
                    lane.discard("aborted")
            if blocks and not lane.full:
                self._not_full.notify()  # there is room for one more who waits
            pressing = lane.others > 0 or any(lane.at_limit(item.stream) for item in items)
            self._tell(len(items), at_once=pressing)

    def _tell(self, items: int, *, at_once: bool) -> None:
        """Wake whom new items are for: one that gathers only when it has enough of them, or `at_once`."""
        if not self._lacking:
            self._not_empty.notify(items)
        elif at_once or self._joiner or self.lanes[0].packets >= self._lacking:
            self._enough.notify()

    def take(self, most: int, wait_s: float = 0.0) -> tuple[int, list[Taken]] | None:
        """The next batch: up to `most` items, waiting up to `wait_s` behind the first for more.

        Returns:
            A ticket that numbers the batches of this inbox, and the items; None once every lane is
            closed and empty.
        """
        with self._lock:
            # Only one worker at a time gathers a batch, else two would share out a stream's packets between
            # them and no ticket could tell their order.
            while self._lacking or not (batch := self._pop(most)):
                if self._done() and not self._lacking:
                    self._not_empty.notify_all()  # the other workers, too, are done
                    return None
                self._not_empty.wait()
            if wait_s and len(batch) < most:
                deadline = time.monotonic() + wait_s
                while lacking := most - len(batch):
                    if more := self._pop(lacking):
                        batch += more
                        continue
                    left = deadline - time.monotonic()
                    if left <= 0 or self._done():
                        break
                    self._lacking = lacking
                    self._enough.wait(left)
                self._lacking = 0
                self._not_empty.notify_all()
            ticket = self._tickets
            self._tickets += 1
            return ticket, batch

    def _pop(self, most: int) -> list[Taken]:
        if self._joiner is None:
            lane = self.lanes[0]
            before = lane.packets
            batch: list[Taken] = []
            while len(batch) < most and (queued := lane.pop()) is not None:
                batch.append(queued)
            lane.delivered += sum(isinstance(item, Packet) for _, item in batch)
            self._not_full.notify(before - lane.packets)  # no more than have room: each costs a switch
        else:
            if not self._joined:
                self._join(self._joiner)
            batch = [self._joined.popleft() for _ in range(min(most, len(self._joined)))]
        return batch

    def _join(self, joiner: Joiner) -> None:
        """Move what lies in the lanes through the joiner."""
        for index, lane in enumerate(self.lanes):
            while (queued := lane.pop()) is not None:
                queued_ns, item = queued
                if (complete := joiner.add(index, item)) is not None:
                    self._joined.append((queued_ns, complete))
        for lane, matched, unmatched in zip(self.lanes, *joiner.take_counts(), strict=True):
            lane.delivered += matched
            for stream, packets in unmatched.items():
                lane.dropped[stream, "unmatched"] += packets
        self._not_full.notify_all()

    def _done(self) -> bool:
        empty = all(lane.closed and not lane.turns for lane in self.lanes) and not self._joined
        return empty or (self._aborted and all(lane.closed for lane in self.lanes))

    @property
    def joins(self) -> bool:
        """Whether packets of several inputs wait here for each other."""
        return self._joiner is not None

    def close(self, lane: Lane) -> None:
        """No more items will come on this lane."""
        with self._lock:
            lane.closed = True
            self._not_empty.notify_all()
            self._enough.notify_all()

    def abort(self) -> None:
        """Throw away all packets that wait here and all that still come; ends of streams stay."""
        with self._lock:
            self._aborted = True
            for lane in self.lanes:
                lane.discard("aborted")
            for waiting in (self._not_full, self._not_empty, self._enough):
                waiting.notify_all()

    def forget(self, streams: Collection[str]) -> None:
        """These streams have ended long ago; what was lost of them is no longer told by stream."""
        with self._lock:
            for lane in self.lanes:
                forget_losses(lane.dropped, streams)

    def counts(self, lane_index: int) -> tuple[int, int, int, Losses]:
        """(received, delivered, in flight, dropped) of a lane, all of one moment."""
        with self._lock:
            lane = self.lanes[lane_index]
            pending = self._joiner.pending(lane_index) if self._joiner else 0
            return lane.received, lane.delivered, lane.packets + pending, lane.dropped.copy()


class Edge:
    """What a producer sees of a consumer: a lane into each of its inboxes, streams spread over them."""

    def __init__(self, producer: str, consumer: str, lanes: Sequence[tuple[Inbox, Lane]]):
        self.producer = producer
        self.consumer = consumer
        self._lanes = list(lanes)
        self._lane_of: dict[str, tuple[Inbox, Lane]] = {}
        self._lane_before: dict[str, tuple[Inbox, Lane]] = {}  # of streams that have ended
        self._routes = threading.Lock()

    def put(self, items: Sequence[Item]) -> None:
        """Send items to the consumer; all items of a stream go to the same inbox."""
        if len(self._lanes) == 1:
            inbox, lane = self._lanes[0]
            inbox.put(lane, items)
            return
        for item in items:
            inbox, lane = self._route(item.stream)
            inbox.put(lane, [item])
            if isinstance(item, End):
                with self._routes:
                    self._lane_before[item.stream] = self._lane_of.pop(item.stream)

    def _route(self, stream: str) -> tuple[Inbox, Lane]:
        with self._routes:
            if stream in self._lane_before:  # whose operator knows what it has given out for it: files, ids
                self._lane_of[stream] = self._lane_before.pop(stream)
            if stream not in self._lane_of:
                used = Counter(id(lane) for _, lane in self._lane_of.values())
                self._lane_of[stream] = min(self._lanes, key=lambda entry: used[id(entry[1])])
            return self._lane_of[stream]

    def room(self, streams: int) -> int | None:
        """How many packets of so many streams it holds when full; None where more wait to be joined."""
        if any(inbox.joins for inbox, _ in self._lanes):
            return None
        lane = self._lanes[0][1]  # all are alike
        return lane.capacity * (min(streams, len(self._lanes)) if lane.policy == "block" else streams)

    def close(self) -> None:
        """The producer has finished."""
        for inbox, lane in self._lanes:
            inbox.close(lane)

    def counts(self) -> tuple[int, int, int, Losses]:
        """(received, delivered, in flight, dropped) over all lanes."""
        received = delivered = in_flight = 0
        dropped: Losses = Counter()
        for inbox, lane in self._lanes:
            r, d, f, losses = inbox.counts(inbox.lanes.index(lane))
            received, delivered, in_flight = received + r, delivered + d, in_flight + f
            dropped.update(losses)
        return received, delivered, in_flight, dropped
