"""Which messages of a topic are finished: up to which offset each partition may be committed."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass

from pipeline.packet import Packet

# A packet that an operator swallows never comes back, and is noticed only when a later packet of its stream
# does. If its stream has ended or gone silent it would block the commits of its partition for ever. So it
# counts as finished once a message that was handed out this much later is finished.
SWALLOWED_S = 60.0


@dataclass(slots=True)
class _Message:
    """A message that was handed out."""

    partition: Hashable
    offset: int
    at: float  # time on the ledger's clock
    run: str = ""
    seq: int = -1
    done: bool = False


class OffsetLedger:
    """The offsets that were handed out, and which of them are finished. Any thread may call.

    A partition may be committed up to its first offset that is not finished.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._changed = threading.Condition()
        self._handed_out: dict[Hashable, deque[_Message]] = {}  # by partition
        self._in_flight: dict[str, deque[_Message]] = {}  # packets, by stream
        self._positions: dict[Hashable, int] = {}  # by partition: behind the last finished offset
        self._newest: dict[Hashable, float] = {}  # by partition: latest `at` of a finished packet
        self.swallowed = 0  # packets that never came back

    def hand_out(self, partition: Hashable, offset: int, packet: Packet | None = None) -> Callable[[], None]:
        """Note that the message at `offset` was handed out.

        A packet is finished by `finish`; for any other message, call the function that this returns.
        """
        with self._changed:
            message = _Message(partition, offset, self._clock())
            self._handed_out.setdefault(partition, deque()).append(message)
            if packet is not None:
                message.run, message.seq = packet.run, packet.seq
                self._in_flight.setdefault(packet.stream, deque()).append(message)
        return lambda: setattr(message, "done", True)

    def finish(self, packet: Packet) -> None:
        """This packet has left the graph, and so have all earlier packets of its stream."""
        with self._changed:
            waiting = self._in_flight.get(packet.stream, ())
            index = next(
                (i for i, m in enumerate(waiting) if m.seq == packet.seq and m.run == packet.run), None
            )
            if index is None:  # finished already, or its partition is no longer ours
                return
            for _ in range(index + 1):
                message = waiting.popleft()  # type: ignore[union-attr]
                message.done = True
                self._newest[message.partition] = max(message.at, self._newest.get(message.partition, 0.0))
            if not waiting:
                del self._in_flight[packet.stream]
            self._changed.notify_all()

    def positions(self) -> dict[Hashable, int]:
        """By partition, the offset to commit: a successor would start reading there."""
        with self._changed:
            for partition, messages in self._handed_out.items():
                swallowed_before = self._newest.get(partition, 0.0) - SWALLOWED_S
                while messages and (messages[0].done or messages[0].at < swallowed_before):
                    first = messages.popleft()
                    self._positions[partition] = first.offset + 1
                    if not first.done:
                        self.swallowed += 1
                        self._remove([first])
            return dict(self._positions)

    def forget(self, partitions: Collection[Hashable]) -> None:
        """Forget partitions that another worker reads now."""
        with self._changed:
            for partition in partitions:
                self._remove([m for m in self._handed_out.pop(partition, ()) if not m.done])
                self._positions.pop(partition, None)
                self._newest.pop(partition, None)
            self._changed.notify_all()

    def wait(self, partitions: Collection[Hashable] | None = None, timeout_s: float = 0.0) -> bool:
        """Wait until no packet of these partitions (None: of any) is in flight; False after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._any_in_flight(partitions), timeout_s)

    def _any_in_flight(self, partitions: Collection[Hashable] | None) -> bool:
        return any(
            not message.done
            for waiting in self._in_flight.values()
            for message in waiting
            if partitions is None or message.partition in partitions
        )

    def in_flight(self) -> Counter[str]:
        """How many packets of each stream are in flight."""
        with self._changed:
            return Counter({stream: len(waiting) for stream, waiting in self._in_flight.items()})

    def _remove(self, messages: list[_Message]) -> None:
        removed = set(map(id, messages))
        for stream, waiting in list(self._in_flight.items()):
            kept = deque(message for message in waiting if id(message) not in removed)
            if kept:
                self._in_flight[stream] = kept
            else:
                del self._in_flight[stream]
