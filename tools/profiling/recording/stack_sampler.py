"""Sample the stacks of all Python threads: what they compute, where they stand still, and how long a thread
waits for the interpreter lock.

Stacks are weighted by processor time: a sample of a working thread counts the processor time that the thread
has used since the last sample in which it worked; a sample of a waiting thread counts nothing. A thread can
only be sampled where it releases the interpreter lock: in a C call, or between two Python instructions.
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

from tools.profiling.recording.event_log import EventLog, Kind
from tools.profiling.recording.thread_state import TaskFile, ThreadState

DEEPEST = 64  # frames of a stack that are kept, from the innermost
STILL = 0.05  # of its call's time; a thread that computes for less stands still
ENTERING_NS = 100_000  # processor time of entering a call, which does not count as computing
# A thread whose innermost frame is in one of these files waits.
WAITING = {module.__file__ for module in (threading, queue, selectors, multiprocessing.connection)}
STDLIB = sysconfig.get_paths()["stdlib"]
# Folders with Python files, the innermost first; a file is shown by its path below the first that holds it.
ROOTS = (
    str(Path(__file__).resolve().parents[3]),
    *(sysconfig.get_paths()[name] for name in ("platlib", "purelib")),
    f"{STDLIB}/site-packages",
    STDLIB,
    sys.prefix,
)


class Active(Protocol):
    """Says whether samples are wanted at the moment."""

    active: bool


class Sampler:
    """Samples all threads of this process from `__enter__` to `__exit__`, in a thread of its own.

    That thread sleeps between samples. How much too late it wakes up, minus the time for which no processor
    was free, is its wait for the interpreter lock, and an estimate for other threads. The estimate is too
    high where the thread that holds the lock waits for a processor, and where the system does not say how
    long a thread waited for one.
    """

    def __init__(self, active: Active, log: EventLog, threads: Mapping[int, ThreadState], hz: float):
        self._active, self._log, self._threads = active, log, threads
        self._every_s = 1 / hz
        self._others: dict[int, ThreadState] = {}  # threads that belong to no stage
        self._stacks: dict[tuple[int, ...], int] = {}
        self._places: dict[tuple[int, ...], int] = {}
        self._codes: list[CodeType] = []  # kept alive, because their ids are keys of the two dicts
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_ended, name="profiler-samples", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample_until_ended(self) -> None:
        processor_wait = ProcessorWait()
        sleep_ns = round(self._every_s * 1e9)
        before_ns = time.monotonic_ns()
        while not self._ended.is_set():
            waited_ns, asleep_ns = processor_wait.total_ns(), time.monotonic_ns()
            time.sleep(self._every_s)
            now_ns = time.monotonic_ns()
            if self._active.active:
                # What is left of the delay without the wait for a processor is the wait for the lock.
                late_ns = now_ns - asleep_ns - sleep_ns - (processor_wait.total_ns() - waited_ns)
                self._log.add((Kind.LATE, now_ns, max(late_ns, 0)))
                self._sample(now_ns, now_ns - before_ns)
            before_ns = now_ns

    def _sample(self, now_ns: int, since_ns: int) -> None:
        still: list[tuple[ThreadState, int, int | None]] = []
        for thread_id, frame in sys._current_frames().items():
            thread = self._threads.get(thread_id) or self._other(thread_id)
            if thread.clock is None:
                # Processor time is unknown: assume that a stage's thread works while it is inside a call.
                if thread.call_start_ns:
                    self._log.add((Kind.SAMPLE, self._stack(thread, frame), now_ns, since_ns))
                continue
            try:
                cpu_ns = time.clock_gettime_ns(thread.clock)
            except OSError:  # the thread has ended; its id may be reused
                self._others.pop(thread_id, None)
                continue
            used_ns = cpu_ns - (thread.sampled_cpu_ns or cpu_ns)
            thread.sampled_cpu_ns = cpu_ns
            thread.unassigned_ns += used_ns
            waits = not thread.unassigned_ns or frame.f_code.co_filename in WAITING
            stack = None if waits else self._stack(thread, frame)
            if _stands_still(thread, now_ns, since_ns, cpu_ns, used_ns):
                still.append((thread, self._place(thread, frame), stack))
            elif stack is not None:
                self._works(thread, stack, now_ns)
        # `ready` reads a file, which releases the interpreter lock, so all threads move on: it comes last.
        for thread, place, stack in still:
            if not thread.ready:
                self._log.add((Kind.STILL, place, now_ns, since_ns))
            elif stack is not None:
                self._works(thread, stack, now_ns)

    def _works(self, thread: ThreadState, stack: int, now_ns: int) -> None:
        """Assign the thread's processor time since it last worked to this stack."""
        self._log.add((Kind.SAMPLE, stack, now_ns, thread.unassigned_ns))
        thread.unassigned_ns = 0

    def _other(self, thread_id: int) -> ThreadState:
        """A thread that belongs to no stage."""
        state = self._others.get(thread_id)
        if state is None:
            state = ThreadState.of(next((t for t in threading.enumerate() if t.ident == thread_id), None))
            self._others[thread_id] = state
        return state

    def _stack(self, thread: ThreadState, frame: FrameType | None) -> int:
        """The number of a stack in the log."""
        codes: list[CodeType] = []
        # Not `is not None`: the thread moves on meanwhile, and CPython 3.11.7 once returned a lock as f_back.
        while isinstance(frame, FrameType) and len(codes) < DEEPEST:
            codes.append(frame.f_code)
            frame = frame.f_back
        key = (hash(thread.stage), *map(id, codes))  # hashing the code itself is slow
        index = self._stacks.get(key)
        if index is None:
            self._codes += codes
            line = ";".join([_clean(thread.stage), *(_function(code) for code in reversed(codes))])
            index = self._stacks[key] = self._log.name("stack", line)
        return index

    def _place(self, thread: ThreadState, frame: FrameType) -> int:
        """The number in the log of the line at which a stage is."""
        at = _outside_stdlib(frame)
        key = (hash(thread.stage), id(at.f_code), at.f_lineno)
        index = self._places.get(key)
        if index is None:
            self._codes.append(at.f_code)
            index = self._places[key] = self._log.name("place", thread.stage, *place(at))
        return index


class ProcessorWait:
    """How long the calling thread was ready to run but had no processor; 0 where Linux does not say."""

    def __init__(self) -> None:
        self._file = TaskFile(threading.get_native_id(), "schedstat")

    def total_ns(self) -> int:
        """The time since the thread began."""
        words = self._file.words()
        return int(words[1]) if len(words) > 1 else 0


def place(frame: FrameType) -> tuple[str, str]:
    """Where a frame is: "file:line in function", and the text of that line."""
    code = frame.f_code
    line = linecache.getline(code.co_filename, frame.f_lineno).strip()
    return f"{_short(code.co_filename)}:{frame.f_lineno} in {code.co_qualname}", line


def collapsed(stacks: Mapping[str, float]) -> str:
    """Stacks and their ms as text for flamegraph.pl and speedscope.app: a line "stack µs" each."""
    return "".join(f"{stack} {round(ms * 1e3)}\n" for stack, ms in sorted(stacks.items()))


def _outside_stdlib(frame: FrameType) -> FrameType:
    """The innermost frame outside Python's standard library, if there is one."""
    at: FrameType | None = frame
    while at is not None and _in_stdlib(at.f_code.co_filename):
        at = at.f_back
    return at or frame


def _stands_still(thread: ThreadState, now_ns: int, since_ns: int, cpu_ns: int, used_ns: int) -> bool:
    """Whether a thread is inside a call and has used next to no processor time since the last sample."""
    if not thread.call_start_ns or thread.in_engine:
        return False
    within_ns = min(now_ns - thread.call_start_ns, since_ns)
    used_ns = min(cpu_ns - thread.call_start_cpu_ns, used_ns)
    return used_ns < STILL * within_ns + ENTERING_NS


def _function(code: CodeType) -> str:
    return _clean(f"{code.co_qualname} ({_short(code.co_filename)}:{code.co_firstlineno})")


def _clean(name: str) -> str:
    """Without the characters that separate frames and lines."""
    return name.replace(";", ",").replace("\n", " ")


def _short(path: str) -> str:
    """A file's path below the project, its package or Python's standard library."""
    for root in ROOTS:
        if path.startswith(f"{root}/"):
            return path[len(root) + 1 :]
    return path


def _in_stdlib(path: str) -> bool:
    return path.startswith("<frozen") or (path.startswith(f"{STDLIB}/") and "site-packages" not in path)
