"""For the trace: each frame as a span of its own, and arrows that follow it from call to call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

STREAMS = 1  # number of the trace's process that shows the streams; the processes of the stages follow
LANES = 1_000_000  # lane numbers a process: Perfetto finds a lane's name by its number alone
OPEN_MAX = 20_000  # frames under way; when more come, the oldest one must have been dropped

Event = dict[str, Any]
IDS = 1_000_000_000  # numbers of spans and arrows a process


@dataclass(slots=True)
class _Frame:
    begin: int  # when it entered the graph
    steps: list[tuple[int, int]] = field(default_factory=list)  # (a moment within the call, its lane)
    last: int = 0  # end of the last call that had it
    left: int = 0  # how many last stages it has left


class FrameSpans:
    """The frames of one process. The events of a frame come out when it has left the graph. Times are ns."""

    def __init__(self, pid: int, streams: dict[str, int], ends: int):
        """Follow frames through calls that the trace shows in process `pid`.

        Args:
            pid: number of the process in the trace.
            streams: the lane of each stream; new streams are added.
            ends: number of last stages in the graph; a frame has finished when it has left all of them.
        """
        self._pid, self._streams, self._ends = pid, streams, ends
        self._frames: dict[tuple[str, int], _Frame] = {}
        self._ids = count(pid * IDS)

    def called(self, stream: str, seq: int, lane: int, start: int, end: int, queued: int) -> Iterator[Event]:
        """A call took a frame, which was `queued` at that time; or, if `queued` is -1, a source read it."""
        key = stream, seq
        if queued < 0 and key in self._frames:  # the source was opened again and counts from 0 again
            yield from self._close(key)
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = _Frame(end if queued < 0 else start)
            if len(self._frames) > OPEN_MAX:
                yield from self._close(next(iter(self._frames)))
        # An arrow starts where a source gives the frame, and ends where a stage takes it.
        inset = min(1000, (end - start) // 2)
        frame.steps.append((end - inset if queued < 0 else start + inset, lane))
        frame.last = max(frame.last, end)

    def finished(self, stream: str, seq: int, at: int) -> Iterator[Event]:
        """A frame has left one of the last stages."""
        frame = self._frames.get((stream, seq))
        if frame:
            frame.last = max(frame.last, at)
            frame.left += 1
            if frame.left == self._ends:
                yield from self._close((stream, seq))

    def rest(self) -> Iterator[Event]:
        """The frames that have not left all last stages."""
        for key in list(self._frames):
            yield from self._close(key)

    def _close(self, key: tuple[str, int]) -> Iterator[Event]:
        frame = self._frames.pop(key)
        stream, seq = key
        lane = self._streams.setdefault(stream, STREAMS * LANES + len(self._streams) + 1)
        number = next(self._ids)
        # Perfetto shows spans of the same name in one track, so the name is the stream's.
        span: Event = {"pid": STREAMS, "tid": lane, "cat": "frame", "name": stream, "id": number}
        args = {"frame": seq, "finished": bool(self._ends) and frame.left >= self._ends}
        yield {**span, "ph": "b", "ts": frame.begin, "args": args}
        yield {**span, "ph": "e", "ts": max(frame.last, frame.begin)}
        steps = sorted(frame.steps)
        if len(steps) > 1:
            arrow = {"pid": self._pid, "cat": "flow", "name": f"{stream} {seq}", "id": number}
            for (at, tid), phase in zip(steps, "s" + "t" * (len(steps) - 2) + "f", strict=True):
                # Bind the end to the span around it, not to the next one.
                binding = {"bp": "e"} if phase == "f" else {}
                yield {**arrow, "ph": phase, "tid": tid, "ts": at, **binding}
