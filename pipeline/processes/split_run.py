"""One run in several processes, since one interpreter lock keeps a process from filling many processors.

Every process runs the whole graph on its share of the sources (`worker_process.py`); a stream never changes
process, so nothing is ever joined across them. This side starts them, passes on what they are told and adds
up what they count.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection, Pipe
from typing import Any

from pipeline.errors import ConfigError, PosestreamError, RunError
from pipeline.graph import Graph
from pipeline.measurement.stats import RunStats
from pipeline.measurement.tracing import Tracer
from pipeline.operator import RunInfo
from pipeline.running import Running
from pipeline.sources import check_sources

# A fresh interpreter, not a fork: threads do not survive one. It knows nothing of the caller's main module,
# so scripts need no `if __name__ == "__main__"`.
PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from pipeline.processes.worker_process import work; work({handle})"
)
ANSWER_S = 1.0  # a process is given so long to say how far it is
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Task:
    """What a process is to do."""

    graph: Graph
    sources: dict[str, str]
    live: bool
    cores: int
    info: RunInfo
    log_levels: dict[str, int]  # logger: level, of those that have one
    tracer: Tracer | None = None


@dataclass(frozen=True)
class Report:
    """What a process says of itself, from when its operators are open until its end."""

    stats: RunStats | None = None  # none where it has not come so far
    failure: PosestreamError | None = None
    cause: BaseException | None = None  # pickle leaves out an error's cause
    done: bool = False


def processes_for(graph: Graph, sources: int, wanted: int | None, cores: int) -> int:
    """How many processes to take for so many sources; `wanted` None is one a processor, where it can be.

    Raises:
        ConfigError: several are wanted, and the graph must stay in one.
    """
    processes = min(sources, cores if wanted is None else wanted)
    if processes > 1 and (reason := _must_stay_in_one(graph)):
        if wanted is not None:
            raise ConfigError(f"{graph.where}: cannot run in {wanted} processes: {reason}; take 1")
        return 1
    return max(processes, 1)


def _must_stay_in_one(graph: Graph) -> str | None:
    for node in graph.nodes:
        if node.operator.across_streams:
            return f"{node.name} ({node.op}) works on all streams together"
        if node.operator.__module__ == "__main__":
            return f"{node.name} ({node.op}) is defined in the script itself, not in a module"
    try:
        pickle.dumps(graph)
    except Exception as error:  # pickle raises what it likes
        return f"the graph cannot be sent to another one ({type(error).__name__}: {error})"
    return None


class SplitRun(Running):
    """Runs `graph` on `sources` in so many `processes`; else like a `Run` whose sources stay as they are."""

    def __init__(
        self,
        graph: Graph,
        sources: Mapping[str, str],
        processes: int,
        *,
        live: bool = False,
        cores: int | None = None,
        tracer: Tracer | None = None,
    ):
        super().__init__(graph, RunInfo.new(graph.name))
        if not live:
            check_sources(graph.source, sources.values())
        own_cores = max(1, (cores or os.cpu_count() or 1) // processes)
        levels = _log_levels()
        self._tasks = [
            Task(graph, share, live, own_cores, self.info, levels, tracer)
            for share in shares(sources, processes)
        ]
        self._told: str | None = None
        self._children: list[_Child] = []

    def start(self) -> None:
        """Open the operators of all processes, then start to read in all of them together.

        Raises:
            RunError: a process cannot be started.
        """
        try:
            for task in self._tasks:
                self._children.append(_Child(task, self._note_failure))
            for child in self._children:
                child.opened.wait()
        except BaseException as error:
            for child in self._children:
                child.process.kill()
            if isinstance(error, OSError):
                raise RunError(f"cannot start {len(self._tasks)} processes: {error}; take fewer") from error
            raise
        if self._told:  # before all were there to hear it
            self._tell(self._told)
        self._tell("read")

    def stop(self) -> None:
        """Read no more; what was read is finished and written."""
        self._told = self._told or "stop"
        self._tell("stop")

    def abort(self) -> None:
        """Stop at once: what waits in the queues is thrown away, and counted."""
        self._told = "abort"
        self._tell("abort")

    def _tell(self, what: str) -> None:
        with self._lock:
            for child in self._children:
                child.tell(what)

    def _threads(self) -> Iterable[threading.Thread]:
        return (child.listener for child in self._children)

    def stats(self) -> RunStats:
        """Add up the snapshots of all processes; of one that is slow to answer, its last one."""
        before = {child: child.report for child in self._children}
        self._tell("report")
        deadline = time.monotonic() + ANSWER_S
        for child, report in before.items():
            while child.report is report and child.listener.is_alive() and time.monotonic() < deadline:
                time.sleep(0.002)
        known = [child.report.stats for child in self._children if child.report.stats]
        return RunStats.total(known) if known else RunStats(self.info.id, self.graph.name)


class _Child:
    """A process, as the one that has started it sees it."""

    def __init__(self, task: Task, failed: Callable[[PosestreamError], None]):
        self.report = Report()
        self.opened = threading.Event()  # or it has ended before
        self._streams = ", ".join(task.sources)
        self._failed = failed
        self._pipe, theirs = Pipe()
        program = PROGRAM.format(path=sys.path, handle=theirs.fileno())
        with theirs, _signals_held_back():
            self.process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        self.listener = threading.Thread(target=self._listen, name=f"process-{self._streams}", daemon=True)
        self.listener.start()
        self.tell(task)

    def tell(self, what: str | Task) -> None:
        """Send something to the process; one that is gone need not hear it, and `_listen` notices."""
        with contextlib.suppress(OSError):
            self._pipe.send(what)

    def _listen(self) -> None:
        try:
            for message in received(self._pipe):
                if isinstance(message, logging.LogRecord):
                    logging.getLogger(message.name).handle(message)
                else:
                    self._take(message)
        except Exception as error:  # an error that cannot be unpickled here, say
            self.process.kill()
            self._failed(RunError(f"cannot read what the process of {self._streams} says: {error!r}"))
        code = self.process.wait()
        if not self.report.done:
            self._failed(RunError(f"the process of {self._streams} {_ended(code)}"))
        self.opened.set()
        self._pipe.close()

    def _take(self, report: Report) -> None:
        self.report = report
        if report.failure:
            report.failure.__cause__ = report.cause
            self._failed(report.failure)
        self.opened.set()


def shares(sources: Mapping[str, str], processes: int) -> list[dict[str, str]]:
    """The sources in order, cut into so many parts that differ by one source at most."""
    items = list(sources.items())
    cuts = [len(items) * i // processes for i in range(processes + 1)]
    return [dict(items[start:end]) for start, end in pairwise(cuts)]


def received(pipe: Connection) -> Iterator[Any]:
    """What comes out of a pipe until the process at its other end is gone."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            yield pipe.recv()


def _ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL; if memory ran out, take fewer processes"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended early with exit code {code}; what it last said stands above"


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """A process that is started in here gets no Ctrl-C before it can ignore it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _log_levels() -> dict[str, int]:
    known = {"": logging.root, **logging.root.manager.loggerDict}
    return {name: log.level for name, log in known.items() if isinstance(log, logging.Logger) and log.level}
