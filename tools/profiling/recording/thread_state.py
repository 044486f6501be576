"""A thread as it is recorded: what it works on, as it tells itself, and what its sampler knows of it."""

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
class Lane:
    """A worker of a stage, or the reader of a stream, or a thread that belongs to no stage."""

    stage: str  # or the thread's name
    index: int  # in the log
    clock: int | None  # of its processor time, for `time.clock_gettime_ns`; None where the system has none
    system_id: int  # of the thread
    entered_ns: int = 0  # monotonic, when its call began; 0 between calls
    entered_cpu_ns: int = 0  # its processor time then
    in_engine: bool = False
    seen_cpu_ns: int = 0  # its processor time at the sample before
    owed_ns: int = 0  # processor time since it was last seen working
    state: TaskFile | None = None

    @classmethod
    def of_this_thread(cls, stage: str, index: int) -> Lane:
        """The lane of the calling thread."""
        # Asked for by the thread itself: of one that has ended meanwhile, the call may crash.
        told = getattr(time, "pthread_getcpuclockid", None)
        clock = told(threading.get_ident()) if told else None
        return cls(stage, index, clock, threading.get_native_id())

    @classmethod
    def of(cls, thread: threading.Thread | None) -> Lane:
        """The lane of another thread, which may end at any time."""
        if thread is None or not thread.native_id:
            return cls("other", -1, None, 0)
        # The clock made as Linux makes it (include/linux/posix-timers.h): this cannot crash.
        clock = ~thread.native_id << 3 | 6 if sys.platform == "linux" else None
        return cls(thread.name, -1, clock, thread.native_id)

    @property
    def ready(self) -> bool:
        """Whether it runs, or would if a processor were free; False where the system does not tell."""
        if self.state is None:
            self.state = TaskFile(self.system_id, "stat")
        return self.state.words()[:1] == [b"R"]


class TaskFile:
    """What Linux tells of a thread of this process; kept open, since opening takes ten times longer."""

    def __init__(self, system_id: int, name: str):
        self._file: FileIO | None = None
        with suppress(OSError):
            self._file = Path(f"/proc/self/task/{system_id}/{name}").open("rb", buffering=0)  # noqa: SIM115

    def words(self) -> list[bytes]:
        """What stands in it, behind the thread's name in brackets; nothing once it has ended."""
        if self._file is None:
            return []
        try:
            return os.pread(self._file.fileno(), 1024, 0).rpartition(b")")[2].split()
        except OSError:
            return []
