"""Join packets that come by several ways, on (stream, seq)."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.packet import End, Event, Instances, Packet


@dataclass
class _Stream:
    newest: list[int]  # seq by input; _ENDED once an input has ended
    ends: list[int]  # by input; one may have begun again while others have not ended yet
    waiting: dict[int, dict[int, Packet]] = field(default_factory=dict)  # seq: {input: packet}
    events: dict[Event, int] = field(default_factory=dict)  # event: inputs that have told it


_ENDED = sys.maxsize


class Joiner:
    """Holds packets until all inputs have given theirs.

    Every input keeps the order of a stream, so a packet can find no partner any more once the other
    inputs have gone past its seq; it is then let go and counted as unmatched. An input that gives nothing for
    a stream would let the others' packets pile up: of each stream no more than `most` frames wait, and none
    that entered the graph more than `max_age_ns` ago, whose partner could come no more.
    """

    def __init__(self, inputs: int, most: int | None = None, max_age_ns: int | None = None):
        self._inputs, self._most, self._max_age_ns = inputs, most, max_age_ns
        self._streams: dict[str, _Stream] = {}
        self._matched = [0] * inputs
        self._unmatched: list[Counter[str]] = [Counter() for _ in range(inputs)]

    def add(self, index: int, item: Packet | Event | End) -> tuple[Packet, ...] | Event | End | None:
        """Take an item from input `index`; give what it completes, a packet of each input say."""
        stream = self._streams.get(item.stream)
        if stream is None:
            stream = self._streams[item.stream] = _Stream([-1] * self._inputs, [0] * self._inputs)
        if isinstance(item, Event):  # the very same one comes by all ways
            told = stream.events.pop(item, 0) + 1
            if told == self._inputs:
                return item
            stream.events[item] = told
            return None
        complete: tuple[Packet, ...] | End | None = None
        if isinstance(item, End):
            stream.newest[index] = _ENDED
            stream.ends[index] += 1
        else:
            complete = self._match(index, stream, item)
        self._let_go(item.stream, stream)
        if isinstance(item, End) and min(stream.ends) > 0:
            self._end(item.stream, stream)
            complete = item
        return complete

    def _match(self, index: int, stream: _Stream, packet: Packet) -> tuple[Packet, ...] | None:
        stream.newest[index] = packet.seq
        partners = stream.waiting.setdefault(packet.seq, {})
        partners[index] = packet
        if len(partners) < self._inputs:
            return None
        del stream.waiting[packet.seq]
        self._matched = [n + 1 for n in self._matched]
        return tuple(partners[i] for i in range(self._inputs))

    def _let_go(self, name: str, stream: _Stream) -> None:
        """Give up the packets for which a partner can no longer come, or not soon enough."""
        below = min(stream.newest)
        gone = [seq for seq in stream.waiting if seq < below]
        if self._most is not None and len(stream.waiting) - len(gone) > self._most:
            gone = sorted(stream.waiting)[: -self._most]
        if self._max_age_ns is not None:
            oldest_ns = time.time_ns() - self._max_age_ns
            gone = [
                seq for seq, partners in stream.waiting.items()
                if seq in gone or next(iter(partners.values())).entered_ns < oldest_ns
            ]  # fmt: skip
        for seq in gone:
            for index in stream.waiting.pop(seq):
                self._unmatched[index][name] += 1

    def _end(self, name: str, stream: _Stream) -> None:
        """All inputs have ended the stream; some may have begun it again."""
        stream.ends = [n - 1 for n in stream.ends]
        stream.newest = [-1 if newest == _ENDED else newest for newest in stream.newest]
        if not stream.waiting and not stream.events and not any(stream.ends) and max(stream.newest) < 0:
            del self._streams[name]

    def pending(self, index: int) -> int:
        """How many packets of an input wait for their partners."""
        return sum(index in p for s in self._streams.values() for p in s.waiting.values())

    def take_counts(self) -> tuple[list[int], list[Counter[str]]]:
        """(matched, unmatched by stream) packets of every input since the last call."""
        counts = self._matched, self._unmatched
        self._matched = [0] * self._inputs
        self._unmatched = [Counter() for _ in range(self._inputs)]
        return counts


def merge(packets: Sequence[Packet]) -> Packet:
    """One packet with all that the given ones know; where two know the same field, the later one's holds.

    Raises:
        ValueError: they hold different numbers of instances, so their rows cannot be told to be the same.
    """
    first = packets[0]
    picture = next((p.picture for p in packets if p.picture is not None), None)
    known = [p.instances for p in packets if p.instances is not None]
    if len({len(instances) for instances in known}) > 1:
        rows = [len(instances) for instances in known]
        raise ValueError(
            f"cannot join {first.stream} frame {first.seq}: its inputs hold {rows} instances; "
            "operators between a fork and a join must keep the rows"
        )
    fields: dict[str, np.ndarray] = {}
    skeleton = None
    for instances in known:
        fields.update(instances.fields)
        skeleton = instances.skeleton or skeleton
    merged = Instances(skeleton=skeleton, **fields) if known else None
    return first.replace(picture=picture, instances=merged)
