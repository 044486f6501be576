"""Join packets of several inputs on (stream, seq)."""

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
    """What a joiner holds of one stream. Lists have an entry for each input."""

    newest: list[int]  # seq; _ENDED once the input has ended the stream
    ends: list[int]  # ends received; an input may begin the stream again before the others have ended it
    waiting: dict[int, dict[int, Packet]] = field(default_factory=dict)  # seq: {input: packet}
    events: dict[Event, int] = field(default_factory=dict)  # event: inputs that it came from so far


_ENDED = sys.maxsize


class Joiner:
    """Holds packets until all inputs have given theirs.

    Every input keeps the order of a stream. A packet can find no partner any more once another input is past
    its seq: it is then dropped as unmatched. If an input gives nothing for a stream, the packets of the other
    inputs would pile up; so at most `most` frames of each stream wait, and none that entered the graph more
    than `max_age_ns` ago, since its partner would have been dropped by then.
    """

    def __init__(self, inputs: int, most: int | None = None, max_age_ns: int | None = None):
        self._inputs, self._most, self._max_age_ns = inputs, most, max_age_ns
        self._streams: dict[str, _Stream] = {}
        self._unmatched: list[Counter[str]] = [Counter() for _ in range(inputs)]

    def add(self, index: int, item: Packet | Event | End) -> tuple[Packet, ...] | Event | End | None:
        """Take an item from input `index`.

        Returns:
            What it completes: one packet of each input, an event, an end, or None.
        """
        stream = self._streams.get(item.stream)
        if stream is None:
            stream = self._streams[item.stream] = _Stream([-1] * self._inputs, [0] * self._inputs)
        if isinstance(item, Event):  # the same object comes from every input
            inputs = stream.events.pop(item, 0) + 1
            if inputs == self._inputs:
                return item
            stream.events[item] = inputs
            return None
        complete: tuple[Packet, ...] | End | None = None
        if isinstance(item, End):
            stream.newest[index] = _ENDED
            stream.ends[index] += 1
        else:
            complete = self._match(index, stream, item)
        self._drop_unmatched(item.stream, stream)
        if isinstance(item, End) and min(stream.ends) > 0:
            self._end(item.stream, stream)
            complete = item
        return complete

    def _match(self, index: int, stream: _Stream, packet: Packet) -> tuple[Packet, ...] | None:
        stream.newest[index] = packet.seq
        partners = stream.waiting.setdefault(packet.seq, {})
        if index in partners:  # the input has given this frame twice
            self._unmatched[index][packet.stream] += 1
        partners[index] = packet
        if len(partners) < self._inputs:
            return None
        del stream.waiting[packet.seq]
        return tuple(partners[i] for i in range(self._inputs))

    def _drop_unmatched(self, name: str, stream: _Stream) -> None:
        """Drop the packets whose partners cannot come any more, or would come too late."""
        below = min(stream.newest)
        unmatched = [seq for seq in stream.waiting if seq < below]
        if self._most is not None and len(stream.waiting) - len(unmatched) > self._most:
            unmatched = sorted(stream.waiting)[: -self._most]
        if self._max_age_ns is not None:
            oldest_ns = time.time_ns() - self._max_age_ns
            unmatched = [
                seq for seq, partners in stream.waiting.items()
                if seq in unmatched or next(iter(partners.values())).entered_ns < oldest_ns
            ]  # fmt: skip
        for seq in unmatched:
            for index in stream.waiting.pop(seq):
                self._unmatched[index][name] += 1

    def _end(self, name: str, stream: _Stream) -> None:
        """All inputs have ended the stream; some may already have begun it again."""
        stream.ends = [n - 1 for n in stream.ends]
        stream.newest = [-1 if newest == _ENDED else newest for newest in stream.newest]
        if not stream.waiting and not stream.events and not any(stream.ends) and max(stream.newest) < 0:
            del self._streams[name]

    def waiting(self, index: int) -> dict[str, int]:
        """The packets of an input that wait for their partners, by stream."""
        return {
            name: packets
            for name, stream in self._streams.items()
            if (packets := sum(index in partners for partners in stream.waiting.values()))
        }

    def take_unmatched(self) -> list[Counter[str]]:
        """The packets of each input that were dropped since the last call, by stream."""
        unmatched = self._unmatched
        self._unmatched = [Counter() for _ in range(self._inputs)]
        return unmatched


def merge(packets: Sequence[Packet]) -> Packet:
    """Make one packet of several; a field that several of them have is taken from the last of these.

    Raises:
        ValueError: they hold different numbers of instances, so their rows do not correspond.
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
