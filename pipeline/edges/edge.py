"""An edge: how a stage sends its packets to another one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Sequence

from pipeline.edges.inbox import Inbox
from pipeline.edges.lane import Lane
from pipeline.measurement.ledger import Ledger
from pipeline.packet import End, Item


class Edge:
    """Connects a producer to the inboxes of a consumer: one lane into each, the streams spread over them.

    A stream that comes back after its end is sent to the same inbox as before, since the operator there
    remembers what it has given out for the stream: file names, track ids.
    """

    def __init__(self, producer: str, consumer: str, lanes: Sequence[tuple[Inbox, Lane]]):
        self.producer = producer
        self.consumer = consumer
        self._lanes = list(lanes)
        self._active: dict[str, tuple[Inbox, Lane]] = {}  # lane by stream
        self._ended: dict[str, tuple[Inbox, Lane]] = {}  # lane by stream, until the run forgets the stream
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
                    self._ended[item.stream] = self._active.pop(item.stream)

    def _route(self, stream: str) -> tuple[Inbox, Lane]:
        with self._routes:
            if stream in self._ended:
                self._active[stream] = self._ended.pop(stream)
            if stream not in self._active:
                used = Counter(id(lane) for _, lane in self._active.values())
                self._active[stream] = min(self._lanes, key=lambda entry: used[id(entry[1])])
            return self._active[stream]

    def forget(self, streams: Collection[str]) -> None:
        """These streams have ended and the run forgets them: should they come back, any inbox will do."""
        with self._routes:
            for stream in streams:
                self._ended.pop(stream, None)

    def room(self, streams: int) -> int | None:
        """How many packets of so many streams it holds when full; None for a join, which holds more."""
        if any(inbox.joins for inbox, _ in self._lanes):
            return None
        lane = self._lanes[0][1]  # all have the same capacity
        return lane.capacity * (min(streams, len(self._lanes)) if lane.policy == "block" else streams)

    def close(self) -> None:
        """The producer has finished."""
        for inbox, lane in self._lanes:
            inbox.close(lane)

    def ledger(self) -> Ledger:
        """What the producer put on this edge and what became of it, until a worker took it."""
        ledger = Ledger()
        for inbox, lane in self._lanes:
            ledger.add(inbox.ledger(lane))
        return ledger
