"""Where the Python threads of a run are, sampled: what they compute, where they stand still, and how long
one waits for the interpreter lock.

What is shown is processor time: a sample of a thread that works counts as much as the processor time which
that thread has used since it was last seen working, and one that waits does not count. Threads are only ever
seen where they let go of the interpreter lock: within a call of C, or between two instructions of Python.
"""

from __future__ import annotations

import linecache
import multiprocessing.connection
import queue
import selectors
import sys
import sysconfig
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Protocol

from tools.profiling.recording.event_log import Kind, Log
from tools.profiling.recording.thread_state import Lane, TaskFile

DEEPEST = 64  # frames of a stack, from the innermost
STILL = 0.05  # of the time within its call; one that was less on a processor stands still
ENTERING_NS = 100_000  # of processor time, before that can be told
WAITING = {module.__file__ for module in (threading, queue, selectors, multiprocessing.connection)}
STDLIB = sysconfig.get_paths()["stdlib"]
# Where files of Python lie, the innermost first; what is shown of a file is its place below that.
ROOTS = (
    str(Path(__file__).resolve().parents[3]),
    *(sysconfig.get_paths()[name] for name in ("platlib", "purelib")),
    f"{STDLIB}/site-packages",
    STDLIB,
    sys.prefix,
)


class Active(Protocol):
    """What is sampled, as long as it is."""

    active: bool


class Sampler:
    """Samples all threads of this process from `__enter__` to `__exit__`, in a thread of its own.

    How late that thread wakes up, less the time for which no processor was free, is how long it waited for
    the interpreter lock. It is a guess at what others wait: where processors are short, those that hold it
    wait for one, too, and that is in it; where the system does not tell, so is the wait for processors.
    """

    def __init__(self, sampled: Active, log: Log, lanes: Mapping[int, Lane], hz: float):
        self._sampled, self._log, self._lanes = sampled, log, lanes
        self._every_s = 1 / hz
        self._others: dict[int, Lane] = {}  # threads of no stage
        self._stacks: dict[tuple[int, ...], int] = {}
        self._places: dict[tuple[int, ...], int] = {}
        self._codes: list[CodeType] = []  # those whose ids are keys, so that the ids stay theirs
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="profiler-samples", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        queue = RunQueue()
        sleep_ns = round(self._every_s * 1e9)
        before_ns = time.monotonic_ns()
        while not self._ended.is_set():
            queued_ns, asleep_ns = queue.waited_ns(), time.monotonic_ns()
            time.sleep(self._every_s)
            now_ns = time.monotonic_ns()
            if self._sampled.active:
                # Late, but not because all processors were taken: the interpreter was.
                late_ns = now_ns - asleep_ns - sleep_ns - (queue.waited_ns() - queued_ns)
                self._log.add((Kind.LATE, now_ns, max(late_ns, 0)))
                self._sample(now_ns, now_ns - before_ns)
            before_ns = now_ns

    def _sample(self, now_ns: int, since_ns: int) -> None:
        still: list[tuple[Lane, int, int | None]] = []
        for thread, frame in sys._current_frames().items():
            lane = self._lanes.get(thread) or self._other(thread)
            if lane.clock is None:
                # Nothing tells; take it for working wherever a stage's thread is inside a call.
                if lane.entered_ns:
                    self._log.add((Kind.SAMPLE, self._stack(lane, frame), now_ns, since_ns))
                continue
            try:
                cpu_ns = time.clock_gettime_ns(lane.clock)
            except OSError:  # it has ended, and its number is another's by now
                self._others.pop(thread, None)
                continue
            used_ns = cpu_ns - (lane.seen_cpu_ns or cpu_ns)
            lane.seen_cpu_ns = cpu_ns
            lane.owed_ns += used_ns
            waits = not lane.owed_ns or frame.f_code.co_filename in WAITING
            stack = None if waits else self._stack(lane, frame)
            if _hardly_computes(lane, now_ns, since_ns, cpu_ns, used_ns):
                still.append((lane, self._place(lane, frame), stack))
            elif stack is not None:
                self._works(lane, stack, now_ns)
        # Reading files lets go of the interpreter lock, and then all threads move on: so it comes last.
        for lane, place, stack in still:
            if not lane.ready:
                self._log.add((Kind.STILL, place, now_ns, since_ns))
            elif stack is not None:
                self._works(lane, stack, now_ns)

    def _works(self, lane: Lane, stack: int, now_ns: int) -> None:
        self._log.add((Kind.SAMPLE, stack, now_ns, lane.owed_ns))
        lane.owed_ns = 0

    def _other(self, thread: int) -> Lane:
        """A thread that belongs to no stage."""
        lane = self._others.get(thread)
        if lane is None:
            lane = Lane.of(next((t for t in threading.enumerate() if t.ident == thread), None))
            self._others[thread] = lane
        return lane

    def _stack(self, lane: Lane, frame: FrameType | None) -> int:
        """The number of a stack in the log."""
        codes: list[CodeType] = []
        # Not `is not None`: the thread moves on meanwhile, and CPython 3.11.7 once gave a lock as a caller.
        while isinstance(frame, FrameType) and len(codes) < DEEPEST:
            codes.append(frame.f_code)
            frame = frame.f_back
        key = (hash(lane.stage), *map(id, codes))  # code itself takes long to hash
        index = self._stacks.get(key)
        if index is None:
            self._codes += codes
            said = ";".join([_clean(lane.stage), *(_function(code) for code in reversed(codes))])
            index = self._stacks[key] = self._log.name("stack", said)
        return index

    def _place(self, lane: Lane, frame: FrameType) -> int:
        """The number of a stage's place in the log."""
        at = _caller(frame)
        key = (hash(lane.stage), id(at.f_code), at.f_lineno)
        index = self._places.get(key)
        if index is None:
            self._codes.append(at.f_code)
            index = self._places[key] = self._log.name("place", lane.stage, *place(at))
        return index


class RunQueue:
    """How long the calling thread was ready while all processors were taken; 0 where Linux does not tell."""

    def __init__(self) -> None:
        self._file = TaskFile(threading.get_native_id(), "schedstat")

    def waited_ns(self) -> int:
        """Since the thread began."""
        words = self._file.words()
        return int(words[1]) if len(words) > 1 else 0


def place(frame: FrameType) -> tuple[str, str]:
    """Where a thread is: "file:line in function", and that line."""
    code = frame.f_code
    line = linecache.getline(code.co_filename, frame.f_lineno).strip()
    return f"{_short(code.co_filename)}:{frame.f_lineno} in {code.co_qualname}", line


def collapsed(stacks: Mapping[str, float]) -> str:
    """Stacks and their ms as text, "stack µs" a line, as flamegraph.pl and speedscope.app read it."""
    return "".join(f"{stack} {round(ms * 1e3)}\n" for stack, ms in sorted(stacks.items()))


def _caller(frame: FrameType) -> FrameType:
    """The innermost frame that is not of Python's own library, where there is one."""
    at: FrameType | None = frame
    while at is not None and _of_python(at.f_code.co_filename):
        at = at.f_back
    return at or frame


def _hardly_computes(lane: Lane, now_ns: int, since_ns: int, cpu_ns: int, used_ns: int) -> bool:
    """Whether a thread has used next to no processor time since the sample before, though inside a call."""
    if not lane.entered_ns or lane.in_engine:
        return False
    within_ns = min(now_ns - lane.entered_ns, since_ns)
    used_ns = min(cpu_ns - lane.entered_cpu_ns, used_ns)
    return used_ns < STILL * within_ns + ENTERING_NS


def _function(code: CodeType) -> str:
    return _clean(f"{code.co_qualname} ({_short(code.co_filename)}:{code.co_firstlineno})")


def _clean(name: str) -> str:
    """Without what separates frames and lines."""
    return name.replace(";", ",").replace("\n", " ")


def _short(path: str) -> str:
    """A file as a reader knows it: from the project, from its package, or from Python's library."""
    for root in ROOTS:
        if path.startswith(f"{root}/"):
            return path[len(root) + 1 :]
    return path


def _of_python(path: str) -> bool:
    return path.startswith("<frozen") or (path.startswith(f"{STDLIB}/") and "site-packages" not in path)
