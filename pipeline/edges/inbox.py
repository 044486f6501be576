"""The inbox in which the workers of a stage find their packets: one lane for each input edge."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection, Sequence

from pipeline.edges.join import Joiner
from pipeline.edges.lane import Lane
from pipeline.measurement.ledger import Ledger
from pipeline.packet import Item, Packet, Taken


class Inbox:
    """Where one worker, or several equal workers, take their batches.

    With several input edges the packets are joined on (stream, seq) before a worker gets them; at most
    `join_max` frames of each stream wait for their partners.
    """

    def __init__(self, lanes: Sequence[Lane], join_max: int | None = None):
        self.lanes = list(lanes)
        self._lock = threading.Lock()
        self._not_empty = threading.Condition(self._lock)  # workers without a batch wait here
        self._batch_grows = threading.Condition(self._lock)  # the worker that fills a batch waits here
        self._not_full = threading.Condition(self._lock)  # producers wait here
        several = len(self.lanes) > 1
        for lane in self.lanes:
            lane.joined = several
        self._joiner = Joiner(len(self.lanes), join_max, self.lanes[0].max_age_ns) if several else None
        self._joined: deque[Taken] = deque()
        self._aborted = False
        self._tickets = 0
        self._filling: list[Taken] = []  # the batch that a worker fills and has not taken yet
        self._missing = 0  # items that a worker still wants for its batch; 0 while no worker fills one

    def put(self, lane: Lane, items: Sequence[Item]) -> None:
        """Queue items on a lane of this inbox; waits while the lane is full and its policy is `block`."""
        now = time.monotonic_ns()
        blocks = lane.policy == "block"
        with self._lock:
            for item in items:
                if blocks and lane.full:
                    # Wake the batching worker: it waits for a full batch while we wait for space, which
                    # would deadlock.
                    self._wake_workers(len(items), at_once=True)
                    while lane.full and not self._aborted:
                        self._not_full.wait()
                    now = time.monotonic_ns()
                lane.append(now, item)
                if self._aborted:
                    lane.discard("aborted")
            if blocks and not lane.full:
                self._not_full.notify()  # there is space for one more producer
            urgent = lane.others > 0 or any(lane.at_limit(item.stream) for item in items)
            self._wake_workers(len(items), at_once=urgent)

    def _wake_workers(self, items: int, *, at_once: bool) -> None:
        """Wake workers for new items. One that fills a batch is woken only if it is full, or `at_once`."""
        if not self._missing:
            self._not_empty.notify(items)
        elif at_once or self._joiner or self.lanes[0].packets >= self._missing:
            self._batch_grows.notify()

    def take(self, most: int, wait_s: float = 0.0) -> tuple[int, list[Taken]] | None:
        """The next batch: up to `most` items; after the first, wait up to `wait_s` for more.

        Returns:
            A ticket that numbers the batches of this inbox, and the items; None once every lane is
            closed and empty.
        """
        with self._lock:
            # Only one worker at a time fills a batch: two would take a stream's packets in turn, and no
            # ticket could tell their order.
            while self._missing or not (batch := self._pop(most)):
                if self._done() and not self._missing:
                    self._not_empty.notify_all()  # the other workers are done, too
                    return None
                self._not_empty.wait()
            if wait_s and len(batch) < most:
                self._fill(batch, most, wait_s)
            ticket = self._tickets
            self._tickets += 1
            return ticket, batch

    def _fill(self, batch: list[Taken], most: int, wait_s: float) -> None:
        """Add items to a batch until it is full, the time is up, or no more can come."""
        self._filling = batch
        deadline = time.monotonic() + wait_s
        while missing := most - len(batch):
            if more := self._pop(missing):
                batch += more
                continue
            left = deadline - time.monotonic()
            if left <= 0 or self._done():
                break
            self._missing = missing
            self._batch_grows.wait(left)
        self._missing, self._filling = 0, []
        self._not_empty.notify_all()

    def _pop(self, most: int) -> list[Taken]:
        if self._joiner is None:
            lane = self.lanes[0]
            before = lane.packets
            batch: list[Taken] = []
            while len(batch) < most and (queued := lane.pop()) is not None:
                batch.append(queued)
            # Wake no more producers than there is space for: each wake-up costs a thread switch.
            self._not_full.notify(before - lane.packets)
        else:
            if not self._joined:
                self._join(self._joiner)
            batch = [self._joined.popleft() for _ in range(min(most, len(self._joined)))]
            for _, parts in batch:
                if isinstance(parts, tuple):
                    for lane, part in zip(self.lanes, parts, strict=True):
                        lane.deliver(part)
        return batch

    def _join(self, joiner: Joiner) -> None:
        """Move all queued items through the joiner."""
        for index, lane in enumerate(self.lanes):
            while (queued := lane.pop()) is not None:
                queued_ns, item = queued
                if (complete := joiner.add(index, item)) is not None:
                    self._joined.append((queued_ns, complete))
        for lane, unmatched in zip(self.lanes, joiner.take_unmatched(), strict=True):
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
            self._batch_grows.notify_all()

    def abort(self) -> None:
        """Throw away all packets that wait here or still come; ends of streams stay."""
        with self._lock:
            self._aborted = True
            for lane in self.lanes:
                lane.discard("aborted")
            for condition in (self._not_full, self._not_empty, self._batch_grows):
                condition.notify_all()

    def forget(self, streams: Collection[str]) -> None:
        """Keep only the sums of these streams, which have ended."""
        with self._lock:
            for lane in self.lanes:
                lane.forget(streams)

    def ledger(self, lane: Lane) -> Ledger:
        """What came into this lane and what became of it, until a worker took it."""
        with self._lock:
            ledger, index = lane.ledger(), self.lanes.index(lane)
            for _, taken in self._filling:
                item = taken[index] if isinstance(taken, tuple) else taken
                if isinstance(item, Packet):
                    ledger.given[item.stream] -= 1
                    ledger.in_flight[item.stream] += 1
            if self._joiner:
                ledger.in_flight.update(self._joiner.waiting(index))
                ledger.in_flight.update(
                    parts[index].stream for _, parts in self._joined if isinstance(parts, tuple)
                )
            return ledger
