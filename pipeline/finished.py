"""What has left the graph: for each last stage and each stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.measurement.metrics import Histogram
from pipeline.packet import End, Event, Item, Packet


@dataclass
class FinishedStream:
    """What has left one last stage of one stream."""

    packets: int = 0
    instances: int = 0
    ended: bool = False
    age: Histogram = field(default_factory=Histogram)  # since the packets entered the graph
    newest: Packet | None = None


class Finished:
    """Counts what leaves the graph; any thread may call."""

    def __init__(self, last_stages: Iterable[str]):
        self._lock = threading.Lock()
        self._stages: dict[str, dict[str, FinishedStream]] = {name: {} for name in last_stages}

    def add(self, stage: str, items: Sequence[Item]) -> dict[str, Packet]:
        """Count items that have left the graph at a last stage.

        Returns:
            For each stream, the newest packet that has now left all last stages.
        """
        now_ns = time.time_ns()
        left_all: dict[str, Packet] = {}
        with self._lock:
            streams = self._stages[stage]
            for item in items:
                if isinstance(item, Event):
                    continue
                stream = streams.get(item.stream)
                if stream is None:
                    stream = streams[item.stream] = FinishedStream()
                stream.ended = isinstance(item, End)
                if isinstance(item, End):
                    self._drop_newest(item.stream)
                    continue
                stream.packets += 1
                stream.instances += len(item.instances) if item.instances is not None else 0
                stream.age.record(now_ns - item.entered_ns)
                if len(self._stages) == 1:  # then no picture need be kept
                    left_all[item.stream] = item
                    continue
                stream.newest = item
                if (packet := self._left_all(item.stream)) is not None:
                    left_all[item.stream] = packet
        return left_all

    def has_ended(self, stream: str) -> bool:
        """Whether a stream has ended at every last stage."""
        with self._lock:
            return self._has_ended(stream)

    def slowest(self, stream: str) -> FinishedStream:
        """A copy of the figures of a stream, at the last stage that has finished fewest of its packets."""
        with self._lock:
            ends = [streams.get(stream, FinishedStream()) for streams in self._stages.values()]
            slowest = min(ends, key=lambda end: end.packets)
            ended = all(end.ended for end in ends)
            return replace(slowest, ended=ended, age=slowest.age.copy(), newest=None)

    def forget(self, streams: Collection[str]) -> None:
        """Keep nothing of these streams."""
        with self._lock:
            for known in self._stages.values():
                for stream in streams:
                    known.pop(stream, None)

    def _has_ended(self, stream: str) -> bool:
        return all(stream in streams and streams[stream].ended for streams in self._stages.values())

    def _drop_newest(self, stream: str) -> None:
        """Keep no packet, and so no picture, of a stream that has ended everywhere."""
        if self._has_ended(stream):
            for streams in self._stages.values():
                streams[stream].newest = None

    def _left_all(self, stream: str) -> Packet | None:
        """The newest packet of a stream that has left every last stage."""
        newest = [streams[stream].newest if stream in streams else None for streams in self._stages.values()]
        known = [packet for packet in newest if packet is not None]
        return min(known, key=lambda p: (p.entered_ns, p.seq)) if len(known) == len(newest) else None
