"""Write the records of a `Recorder` with `trace` as a file for ui.perfetto.dev or chrome://tracing.

The format is Google's "Trace Event Format", in JSON: X is a span in a thread's lane, b and e begin and end a
span outside of lanes, s, t and f are an arrow from span to span, C is a figure over time, M a name. Times are
in µs.

A process of the trace has a lane for each worker of each stage, with its calls, the calls of engines within
them, and the time for which it then waited for room; and a second lane for the device's work on its behalf.
The process "streams" shows every frame from when it entered the graph until it left; arrows follow the frame
from call to call.
"""

from __future__ import annotations

import gzip
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from pipeline.errors import ConfigError
from tools.profiling.recording.event_log import EventLogFile, Kind, Row, event_logs
from tools.profiling.recording.frame_spans import LANES, STREAMS, FrameSpans

DEVICE = 500_000  # number of a worker's device lane minus that of its own lane
GAP_NS = 1000  # between spans of a lane: Perfetto drops spans that overlap, even by a rounding error
SHOWN = 16  # at most this many frames of a call are named
COUNTED_NS = 5_000_000  # between two values of a queue's length

Event = dict[str, Any]
Lanes = dict[int, str]  # number: name; numbers are in the order in which the lanes are shown


def write_trace(folder: Path, out: Path, between: tuple[int, int] | None = None) -> int:
    """Write the trace of what was recorded to `folder`.

    Args:
        folder: the folder of a `Recorder` whose run has ended.
        out: the file to write; compressed if its name ends in .gz.
        between: two moments (monotonic ns); only calls that lie between them are written.

    Returns:
        The number of events written.

    Raises:
        ConfigError: nothing was recorded there, or the file cannot be written.
    """
    files = event_logs(folder)
    opened: Callable[..., Any] = gzip.open if out.suffix == ".gz" else open
    try:
        with opened(out, "wb") as file:
            return _write(files, between or (0, 1 << 62), file)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from None


def _write(files: list[EventLogFile], between: tuple[int, int], file: BinaryIO) -> int:
    starts = [log.names()[0][2] for log in files]
    origin = max(min(starts), between[0])
    streams: dict[str, int] = {}
    count = 0
    file.write(b'{"displayTimeUnit":"ms","otherData":{"clock":"monotonic","origin_ns":"%d"},' % origin)
    file.write(b'"traceEvents":[\n')
    for number, log in enumerate(files):
        alone = len(files) == 1
        for event in _Process(log, STREAMS + 1 + number, alone, between, streams).events():
            if event["ph"] != "M":
                event["ts"] = (event["ts"] - origin) / 1e3
            if "dur" in event:
                event["dur"] /= 1e3
            file.write(b",\n" * bool(count) + orjson.dumps(event))
            count += 1
    for event in _names(STREAMS, "streams", {tid: name for name, tid in streams.items()}):
        file.write(b",\n" * bool(count) + orjson.dumps(event))
        count += 1
    file.write(b"\n]}\n")
    return count


class _Process:
    """The events of one process; their times are ns."""

    def __init__(
        self, log: EventLogFile, pid: int, alone: bool, between: tuple[int, int], streams: dict[str, int]
    ):
        self._log, self._pid, self._between = log, pid, between
        self._names = log.names()
        self._title = "stages" if alone else f"stages of {self._names[0][1]}"
        ends = sum(name[0] == "end" for name in self._names)
        self._frames = FrameSpans(pid, streams, ends)
        self._queued: dict[str, array[int]] = defaultdict(lambda: array("q"))  # stage: (queued, taken) …
        self._device_until: dict[int, int] = {}  # lane: end of its last span
        self._tids, self._lanes = self._lanes_in_order()
        self._devices: Lanes = {}

    def events(self) -> Iterator[Event]:
        """All events, not in order of time."""
        first, last = self._between
        readers = {  # kind of row: its method, and where its start and end are in the row
            Kind.CALL: (self._call, 2, 3),
            Kind.ENGINE: (self._engine, 3, 4),
            Kind.BLOCKED: (self._blocked, 2, 3),
            Kind.FINISHED: (self._finished, 2, 2),
        }
        yield from _names(self._pid, self._title, self._lanes)
        for row in self._log.rows():
            if row[0] in readers:
                read, start, end = readers[Kind(row[0])]
                if first <= row[start] and row[end] <= last:
                    yield from read(row)
        yield from self._frames.rest()
        yield from self._waiting()
        yield from _names(self._pid, self._title, self._devices)

    def _lanes_in_order(self) -> tuple[dict[int, int], Lanes]:
        """Lane numbers by their number in the log, and names of lanes; sorted by stage, then by worker."""
        lanes = {index: name[1:] for index, name in enumerate(self._names) if name[0] == "lane"}
        stages = list(dict.fromkeys(stage for stage, _ in lanes.values()))
        order = sorted(lanes, key=lambda index: (stages.index(lanes[index][0]), str(lanes[index][1])))
        tids = {index: self._pid * LANES + place for place, index in enumerate(order, 1)}
        return tids, {tids[i]: f"{lanes[i][0]} {lanes[i][1]}" for i in order}

    def _call(self, row: Row) -> Iterator[Event]:
        _, lane, start, end, cpu_ns, taken, results, nbytes, *numbers = row
        stage = self._names[lane][1]
        frames = [
            (self._names[numbers[i]][1], numbers[i + 1], numbers[i + 2]) for i in range(0, len(numbers), 3)
        ]
        waits = [queued for _, _, queued in frames if queued >= 0]
        args: Event = {
            "packets": taken or results,
            "frames": [f"{stream} {seq}" for stream, seq, _ in frames[:SHOWN]],
            "cpu_ms": round(cpu_ns / 1e6, 3),
            "mb": round(nbytes / 1e6, 3),
        }
        if waits:
            args["waited_ms"] = [round((start - queued) / 1e6, 3) for queued in waits[:SHOWN]]
            queue = self._queued[stage]
            for queued in waits:
                queue.extend((queued, start))
        yield self._span(self._tids[lane], "call", stage, start, end, args)
        for stream, seq, queued in frames:
            yield from self._frames.called(stream, seq, self._tids[lane], start, max(end, start + 1), queued)

    def _engine(self, row: Row) -> Iterator[Event]:
        _, lane, engine, start, end, making, items, bytes_in, bytes_out, copied, *times = row
        _, model, file, backend, threads = self._names[engine]
        args: Event = {"items": items, "backend": backend, "threads": threads, "file": file}
        args |= {"mb_in": round(bytes_in / 1e6, 3), "mb_out": round(bytes_out / 1e6, 3)}
        if making:
            args["ms_making_inputs"] = round(making / 1e6, 3)
        if copied >= 0:
            args["mb_copied"] = round(copied / 1e6, 3)
        yield self._span(self._tids[lane], "engine", model, start, end, args)
        for begin, done in zip(times[::2], times[1::2], strict=True):
            tid = self._tids[lane] + DEVICE
            self._devices[tid] = f"GPU for {self._lanes[self._tids[lane]]}"
            # The device's times are off by some µs, so that spans may seem to overlap.
            begin = max(begin, self._device_until.get(tid, self._between[0]) + GAP_NS)
            self._device_until[tid] = done = max(done, begin + 1)
            yield self._span(tid, "device", model, begin, done, {})

    def _blocked(self, row: Row) -> Iterator[Event]:
        _, lane, since, until = row
        yield self._span(self._tids[lane], "wait", "waits for room", since + GAP_NS, until, {})

    def _finished(self, row: Row) -> Iterator[Event]:
        _, _, at, *numbers = row
        for i in range(0, len(numbers), 2):
            yield from self._frames.finished(self._names[numbers[i]][1], numbers[i + 1], at)

    def _span(self, tid: int, kind: str, name: str, start: int, end: int, args: Event) -> Event:
        return {
            "ph": "X", "pid": self._pid, "tid": tid, "cat": kind, "name": name, "ts": start,
            "dur": max(end - start, 1), "args": args,
        }  # fmt: skip

    def _waiting(self) -> Iterator[Event]:
        """How many packets wait in front of each stage, without packets that are dropped there."""
        for stage, numbers in self._queued.items():
            queued, taken = np.array(numbers, np.int64).reshape(-1, 2).T
            times = np.concatenate([queued, taken])
            order = np.argsort(times, kind="stable")
            times = times[order]
            waiting = np.cumsum(np.repeat([1, -1], len(queued))[order])
            last = np.flatnonzero(np.diff(times // COUNTED_NS, append=np.iinfo(np.int64).max))
            figure = {"ph": "C", "pid": self._pid, "tid": self._pid * LANES, "name": f"waiting for {stage}"}
            for at, packets in zip(times[last].tolist(), waiting[last].tolist(), strict=True):
                if at >= self._between[0]:
                    yield {**figure, "ts": at, "args": {"packets": packets}}


def _names(pid: int, process: str, lanes: Lanes) -> Iterator[Event]:
    """The names of a process and of its lanes, and the order in which they are shown."""

    def meta(what: str, tid: int, args: Event) -> Event:
        return {"ph": "M", "pid": pid, "tid": tid, "ts": 0, "name": what, "args": args}

    yield meta("process_name", pid * LANES, {"name": process})
    yield meta("process_sort_index", pid * LANES, {"sort_index": pid})
    for tid, name in lanes.items():
        yield meta("thread_name", tid, {"name": name})
        yield meta("thread_sort_index", tid, {"sort_index": tid})
