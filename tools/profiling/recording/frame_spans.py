"""Follows each frame through the calls of its stages, for the trace: a span of its own, and arrows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

STREAMS = 1  # the number of the process of the streams; those of the stages follow
LANES = 1_000_000  # of a process, since Perfetto finds a lane's name by its number alone
OPEN_MAX = 20_000  # a frame that has not left while so many others came was dropped on its way

Event = dict[str, Any]
IDS = 1_000_000_000  # for each process


@dataclass(slots=True)
class _Frame:
    begin: int  # when it entered the graph
    steps: list[tuple[int, int]] = field(default_factory=list)  # (a moment within the call, its lane)
    last: int = 0  # when something was last done with it
    left: int = 0  # last stages that it has left


class Frames:
    """The frames of one process; events come out once a frame has left the graph. Times are ns."""

    def __init__(self, pid: int, streams: dict[str, int], ends: int):
        """Follow the frames in the lanes of process `pid`.

        Args:
            pid: of the calls.
            streams: the lanes of the frames' own spans, which are added as streams come.
            ends: how many stages a frame has to leave, those behind which there is none.
        """
        self._pid, self._streams, self._ends = pid, streams, ends
        self._frames: dict[tuple[str, int], _Frame] = {}
        self._ids = count(pid * IDS)

    def called(self, stream: str, seq: int, lane: int, start: int, end: int, queued: int) -> Iterator[Event]:
        """A call took a frame that was `queued`; or gave it, where that is -1: the source has read it."""
        key = stream, seq
        if queued < 0 and key in self._frames:  # a source that was read anew, from its first frame
            yield from self._close(key)
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = _Frame(end if queued < 0 else start)
            if len(self._frames) > OPEN_MAX:
                yield from self._close(next(iter(self._frames)))
        # Arrows leave a source where it gives the frame, and come in where a stage takes it.
        aside = min(1000, (end - start) // 2)
        frame.steps.append((end - aside if queued < 0 else start + aside, lane))
        frame.last = max(frame.last, end)

    def finished(self, stream: str, seq: int, at: int) -> Iterator[Event]:
        """A frame has left a last stage."""
        frame = self._frames.get((stream, seq))
        if frame:
            frame.last = max(frame.last, at)
            frame.left += 1
            if frame.left == self._ends:
                yield from self._close((stream, seq))

    def rest(self) -> Iterator[Event]:
        """Those that have not left everywhere."""
        for key in list(self._frames):
            yield from self._close(key)

    def _close(self, key: tuple[str, int]) -> Iterator[Event]:
        frame = self._frames.pop(key)
        stream, seq = key
        lane = self._streams.setdefault(stream, STREAMS * LANES + len(self._streams) + 1)
        number = next(self._ids)
        # Perfetto puts spans of one name below each other, so that is the stream's.
        span: Event = {"pid": STREAMS, "tid": lane, "cat": "frame", "name": stream, "id": number}
        args = {"frame": seq, "finished": bool(self._ends) and frame.left >= self._ends}
        yield {**span, "ph": "b", "ts": frame.begin, "args": args}
        yield {**span, "ph": "e", "ts": max(frame.last, frame.begin)}
        steps = sorted(frame.steps)
        if len(steps) > 1:
            arrow = {"pid": self._pid, "cat": "flow", "name": f"{stream} {seq}", "id": number}
            for (at, tid), phase in zip(steps, "s" + "t" * (len(steps) - 2) + "f", strict=True):
                binding = {"bp": "e"} if phase == "f" else {}  # to the span around it, not the next one
                yield {**arrow, "ph": phase, "tid": tid, "ts": at, **binding}
