"""One run in several processes: the interpreter lock keeps a single process from using many processors.

Every process runs the whole graph on its share of the sources (`worker_process.py`). A stream never changes
process, so no packets are joined across processes. This side starts the processes, sends them commands and
adds up their figures.
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
from pipeline.measurement.run_stats import RunStats
from pipeline.measurement.tracing import Tracer
from pipeline.operator import RunInfo
from pipeline.running import Running
from pipeline.sources import check_sources

# A fresh interpreter, not a fork: threads do not survive a fork. It does not import the caller's main module,
# so scripts need no `if __name__ == "__main__"`.
PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from pipeline.processes.worker_process import work; work({handle})"
)
ANSWER_S = 1.0  # how long to wait for the figures of a process
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Task:
    """What a process has to do."""

    graph: Graph
    sources: dict[str, str]
    live: bool
    cores: int
    info: RunInfo
    log_levels: dict[str, int]  # of the loggers that have a level of their own
    tracer: Tracer | None = None


@dataclass(frozen=True)
class ProcessState:
    """What a process reports of itself, from when its operators are open until its end."""

    stats: RunStats | None = None  # None if the process could not even make its run
    failure: PosestreamError | None = None
    cause: BaseException | None = None  # pickle leaves out an error's cause
    done: bool = False


def processes_for(graph: Graph, sources: int, wanted: int | None, cores: int) -> int:
    """How many processes to take for so many sources; `wanted` None means one a processor, if the graph can.

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
    except Exception as error:  # pickle raises errors of any class
        return f"the graph cannot be sent to another one ({type(error).__name__}: {error})"
    return None


class SplitRun(Running):
    """Like a `Run` of `graph` on `sources`, in several processes; no sources can be added or removed."""

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
        super().__init__(graph, RunInfo.new(graph.name)._replace(live=live))
        if not live:
            check_sources(graph.source, sources.values())
        own_cores = max(1, (cores or os.cpu_count() or 1) // processes)
        levels = _log_levels()
        self._tasks = [
            Task(graph, share, live, own_cores, self.info, levels, tracer)
            for share in shares(sources, processes)
        ]
        self._command: str | None = None  # "stop" or "abort", for processes that do not run yet
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
        if self._command:  # it was given before all processes had started
            self._send(self._command)
        self._send("read")

    def stop(self) -> None:
        """Read no more; what was read is finished and written."""
        self._command = self._command or "stop"
        self._send("stop")

    def abort(self) -> None:
        """Stop at once: packets that wait in the queues are dropped and counted."""
        self._command = "abort"
        self._send("abort")

    def _send(self, command: str) -> None:
        with self._lock:
            for child in self._children:
                child.send(command)

    def _threads(self) -> Iterable[threading.Thread]:
        return (child.listener for child in self._children)

    def stats(self) -> RunStats:
        """Add up the snapshots of all processes; of one that is slow to answer, its last one."""
        before = {child: child.state for child in self._children}
        self._send("report")
        deadline = time.monotonic() + ANSWER_S
        for child, state in before.items():
            while child.state is state and child.listener.is_alive() and time.monotonic() < deadline:
                time.sleep(0.002)
        known = [child.state.stats for child in self._children if child.state.stats]
        return RunStats.total(known) if known else RunStats(self.info.id, self.graph.name)


class _Child:
    """A process that this one has started."""

    def __init__(self, task: Task, failed: Callable[[PosestreamError], None]):
        self.state = ProcessState()
        self.opened = threading.Event()  # set when its operators are open, or when it has ended
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
        self.send(task)

    def send(self, message: str | Task) -> None:
        """Send a command to the process; if it has ended, `_listen` notices."""
        with contextlib.suppress(OSError):
            self._pipe.send(message)

    def _listen(self) -> None:
        try:
            for message in received(self._pipe):
                if isinstance(message, logging.LogRecord):
                    logging.getLogger(message.name).handle(message)
                else:
                    self._update(message)
        except Exception as error:  # an error that cannot be unpickled here, for example
            self.process.kill()
            self._failed(RunError(f"cannot read the messages of the process of {self._streams}: {error!r}"))
        code = self.process.wait()
        if not self.state.done:
            self._failed(RunError(f"the process of {self._streams} {_how_it_ended(code)}"))
        self.opened.set()
        self._pipe.close()

    def _update(self, state: ProcessState) -> None:
        self.state = state
        if state.failure:
            state.failure.__cause__ = state.cause
            self._failed(state.failure)
        self.opened.set()


def shares(sources: Mapping[str, str], processes: int) -> list[dict[str, str]]:
    """The sources in order, cut into parts whose sizes differ by at most one."""
    items = list(sources.items())
    cuts = [len(items) * i // processes for i in range(processes + 1)]
    return [dict(items[start:end]) for start, end in pairwise(cuts)]


def received(pipe: Connection) -> Iterator[Any]:
    """The messages from a pipe until the process at its other end has ended."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            yield pipe.recv()


def _how_it_ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL; if memory ran out, take fewer processes"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended early with exit code {code}; its last messages stand above"


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """A process that is started in this block gets no Ctrl-C before it is able to ignore it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _log_levels() -> dict[str, int]:
    known = {"": logging.root, **logging.root.manager.loggerDict}
    return {name: log.level for name, log in known.items() if isinstance(log, logging.Logger) and log.level}
