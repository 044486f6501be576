"""What is known of a thread while it is recorded: what it works on, and its processor time."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path


@dataclass(slots=True, eq=False)
class ThreadState:
    """A worker of a stage, the reader of a stream, or a thread that belongs to no stage.

    The thread itself writes what it works on; the sampler writes the rest.
    """

    stage: str  # or the thread's name
    lane: int  # number of its lane in the event log; -1: none
    clock: int | None  # counts its processor time, for `time.clock_gettime_ns`; None where there is none
    system_id: int  # the operating system's number of the thread
    call_start_ns: int = 0  # monotonic; 0 between calls
    call_start_cpu_ns: int = 0  # its processor time then
    in_engine: bool = False
    sampled_cpu_ns: int = 0  # its processor time at the sample before
    unassigned_ns: int = 0  # processor time since the last sample in which it was seen at work
    stat: TaskFile | None = None

    @classmethod
    def of_this_thread(cls, stage: str, lane: int) -> ThreadState:
        """The state of the calling thread."""
        # Only the thread itself may ask for its clock: for a thread that has ended the call may crash.
        clock_of = getattr(time, "pthread_getcpuclockid", None)
        clock = clock_of(threading.get_ident()) if clock_of else None
        return cls(stage, lane, clock, threading.get_native_id())

    @classmethod
    def of(cls, thread: threading.Thread | None) -> ThreadState:
        """The state of another thread, which may end at any time."""
        if thread is None or not thread.native_id:
            return cls("other", -1, None, 0)
        # Computed as Linux does (include/linux/posix-timers.h), because that cannot crash.
        clock = ~thread.native_id << 3 | 6 if sys.platform == "linux" else None
        return cls(thread.name, -1, clock, thread.native_id)

    @property
    def ready(self) -> bool:
        """Whether it runs or waits for a free processor; False where the system does not say."""
        if self.stat is None:
            self.stat = TaskFile(self.system_id, "stat")
        return self.stat.words()[:1] == [b"R"]


class TaskFile:
    """A file of Linux about a thread of this process; kept open, since opening takes ten times longer."""

    def __init__(self, system_id: int, name: str):
        self._file: FileIO | None = None
        with suppress(OSError):
            self._file = Path(f"/proc/self/task/{system_id}/{name}").open("rb", buffering=0)  # noqa: SIM115

    def words(self) -> list[bytes]:
        """Its words after the thread's name in brackets; none once the thread has ended."""
        if self._file is None:
            return []
        try:
            return os.pread(self._file.fileno(), 1024, 0).rpartition(b")")[2].split()
        except OSError:
            return []
