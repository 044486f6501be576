"""Add up what a `Recorder` has written."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipeline.measurement.metrics import Histogram
from tools.profiling.recording.event_log import EventLogFile, Kind, Row, event_logs

MB = 1e6


class EngineKey(NamedTuple):
    """A model as one stage uses it."""

    stage: str
    model: str
    file: str
    backend: str
    threads: int


@dataclass
class EngineCalls:
    """The calls of an engine."""

    took: Histogram = field(default_factory=Histogram)  # on the host, without making the inputs
    items: int = 0
    sizes: Counter[int] = field(default_factory=Counter)  # items in a call: number of such calls
    bytes_in: int = 0
    bytes_out: int = 0
    device_ms: float | None = None  # on the device, by its events; None without them
    copied: int | None = None  # bytes to and from the device; None without one

    @property
    def calls(self) -> int:
        """Number of calls."""
        return self.took.count

    @property
    def ms(self) -> float:
        """Duration of all calls together."""
        return self.took.total_ns / 1e6

    def add(self, row: Row) -> None:
        """Add one call."""
        _, _, _, start, end, making, items, bytes_in, bytes_out, copied, *times = row
        self.took.record(end - start - making)
        self.items += items
        self.sizes[items] += 1
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        if copied >= 0:
            self.copied = (self.copied or 0) + copied
        if times:
            self.device_ms = (self.device_ms or 0.0) + (sum(times[1::2]) - sum(times[::2])) / 1e6


class Standing(NamedTuple):
    """A line of Python at which a stage stood still."""

    stage: str
    where: str  # file:line in function
    line: str


@dataclass
class Recorded:
    """What all processes have recorded, in total or between two moments."""

    folder: Path
    engines: dict[EngineKey, EngineCalls] = field(default_factory=lambda: defaultdict(EngineCalls))
    memory_mb: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # by stage, as it opened
    payload: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # bytes handed to each stage
    stacks: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # ms of processor time
    standing: dict[Standing, float] = field(default_factory=lambda: defaultdict(float))  # ms
    lock_wait_ms: float | None = None  # mean; None where nothing was sampled
    missed: int = 0  # rows beyond the limit, which were not kept

    def between(self, start_ns: int, end_ns: int) -> Recorded:
        """Only the calls that began between two moments (monotonic); memory and `missed` stay as they are."""
        return _read(self.folder, (start_ns, end_ns))


def read_recorded(folder: Path) -> Recorded:
    """What a `Recorder` has written to a folder; complete once the run has ended.

    Raises:
        ConfigError: nothing was recorded there.
    """
    return _read(folder, None)


def _read(folder: Path, between: tuple[int, int] | None) -> Recorded:
    first, last = between or (0, 1 << 63)
    found = Recorded(folder)
    late: list[int] = []
    for file in event_logs(folder):
        _add(found, file, first, last, late)
    if late:
        found.lock_wait_ms = sum(late) / len(late) / 1e6
    return found


def _add(found: Recorded, file: EventLogFile, first: int, last: int, late: list[int]) -> None:
    names = file.names()
    for row in file.rows():
        kind = row[0]
        if kind == Kind.CALL:
            if first <= row[2] < last:
                found.payload[names[row[1]][1]] += row[7]
        elif kind == Kind.ENGINE:
            if first <= row[3] < last:
                stage = names[row[1]][1]
                found.engines[EngineKey(stage, *names[row[2]][1:])].add(row)
        elif kind == Kind.SAMPLE:
            if first <= row[2] < last:
                found.stacks[names[row[1]][1]] += row[3] / 1e6
        elif kind == Kind.STILL:
            if first <= row[2] < last:
                found.standing[Standing(*names[row[1]][1:])] += row[3] / 1e6
        elif kind == Kind.LATE:
            if first <= row[1] < last:
                late.append(row[2])
        elif kind == Kind.OPENED:
            found.memory_mb[names[row[1]][1]] += row[2] / MB
        elif kind == Kind.MISSED:
            found.missed += row[1]
