"""How much of the machine a run uses while it is measured: cores, memory, and GPUs by NVML."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tools.profiling.document import Moment, Use
from tools.profiling.machine.gpus import GpuSampler

EVERY_S = 1.0
MB = 1e6


class _Sample(NamedTuple):
    at_s: float  # monotonic
    cpu_s: dict[int, float]  # process: its processor time
    all_s: float | None  # processor time of all processes
    memory_mb: float
    frames: int


class UseSampler:
    """Samples this process and its children from `start` to `stop`, in a thread of its own.

    `frames` returns how many frames have left the graph so far. `nvml` is the module pynvml; without it, GPUs
    are not sampled.
    """

    def __init__(self, frames: Callable[[], int], nvml: Any = None, every_s: float = EVERY_S):
        self.memory_before_mb = memory_mb(_processes())
        self._frames, self._every_s = frames, every_s
        self._gpus = GpuSampler(nvml) if nvml else None
        self._samples: list[_Sample] = []
        self._ready_s: dict[str, float] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="use", daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        self._ready_s = _ready_s(_processes())
        self._take()
        self._thread.start()

    def stop(self) -> Use:
        """Stop sampling, and sum up what was used since the start."""
        self._ended.set()
        self._thread.join()
        self._take()
        first, last = self._samples[0], self._samples[-1]
        moments = [
            _moment(self._samples[0].at_s, before, now)
            for before, now in zip(self._samples, self._samples[1:], strict=False)
        ]
        total = _moment(first.at_s, first, last)
        ready_s = _ready_s(_processes())  # it reads a file per thread, so only at the start and at the end
        return Use(
            cores=total.cores,
            cores_all=total.cores_all,
            memory_mb=max(sample.memory_mb for sample in self._samples),
            memory_before_mb=self.memory_before_mb,
            starved=_starved(self._ready_s, ready_s, last.at_s - first.at_s),
            gpus=self._gpus.use(last.frames - first.frames) if self._gpus else [],
            moments=moments,
        )

    def _work(self) -> None:
        while not self._ended.wait(self._every_s):
            self._take()

    def _take(self) -> None:
        processes = _processes()
        times = {process.pid: seconds for process in processes if (seconds := _cpu_s(process)) is not None}
        self._samples.append(
            _Sample(
                time.monotonic(),
                times,
                _all_cpu_s(),
                memory_mb(processes),
                self._frames(),
            )
        )
        if self._gpus:
            self._gpus.sample(time.monotonic())


def _moment(began_s: float, before: _Sample, now: _Sample) -> Moment:
    seconds = max(now.at_s - before.at_s, 1e-9)
    # All the time of a process that was started after `before` counts.
    cpu_s = sum(max(spent - before.cpu_s.get(pid, 0.0), 0.0) for pid, spent in now.cpu_s.items())
    all_s = None if now.all_s is None or before.all_s is None else now.all_s - before.all_s
    return Moment(
        at_s=now.at_s - began_s,
        cores=cpu_s / seconds,
        cores_all=None if all_s is None else all_s / seconds,
        memory_mb=now.memory_mb,
        fps=(now.frames - before.frames) / seconds,
    )


def _starved(before: dict[str, float] | None, now: dict[str, float] | None, seconds: float) -> float | None:
    """How many threads, on average, were ready to run and had no core."""
    if before is None or now is None:
        return None
    waited_s = sum(max(spent - before.get(thread, 0.0), 0.0) for thread, spent in now.items())
    return waited_s / max(seconds, 1e-9)


def _processes() -> list[psutil.Process]:
    own = psutil.Process()
    try:
        return [own, *own.children(recursive=True)]
    except psutil.Error:  # one has ended while they were listed
        return [own]


def memory_mb(processes: Iterable[psutil.Process]) -> float:
    """Add up the resident memory of processes, in MB; a page that several share counts in each."""
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it has ended
            continue
    return total / MB


def _cpu_s(process: psutil.Process) -> float | None:
    try:
        times = process.cpu_times()
    except psutil.Error:  # it has ended
        return None
    return times.user + times.system


def _ready_s(processes: Iterable[psutil.Process]) -> dict[str, float] | None:
    """How long each thread was ready to run and had no core, in s; None on systems other than Linux."""
    waited: dict[str, float] = {}
    for process in processes:
        for task in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            try:
                waited[task.parent.name] = int(task.read_text(encoding="ascii").split()[1]) / 1e9
            except (OSError, IndexError):  # it has ended
                continue
    return waited or None


def _all_cpu_s() -> float | None:
    """Processor time of the whole machine, in s; None if the system does not report it."""
    try:
        times = psutil.cpu_times()
    except (OSError, RuntimeError):
        return None
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - _guests(times)


def _guests(times: Any) -> float:
    """Time of virtual machines: Linux counts it twice, as guest time and as time of their processes."""
    return getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
