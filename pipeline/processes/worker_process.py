"""A process of a split run: the whole graph on a share of the sources, on the commands of its starter."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from typing import NoReturn

from pipeline.errors import PosestreamError, RunError
from pipeline.processes.split_run import SIGNALS, ProcessState, Task, received
from pipeline.run import Run

REPORT_EVERY_S = 0.2


def work(handle: int) -> None:
    """The main function of the process; `handle` is its end of the pipe to its starter."""
    # Ctrl-C goes to all processes of the terminal; the starter gets it, too, and sends a command.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    starter = Starter(Connection(handle))
    try:
        task = starter.task()
        run = Run(
            task.graph, task.sources, live=task.live, cores=task.cores, info=task.info, tracer=task.tracer
        )
    except Exception as error:
        starter.report(None, error, done=True)
        return
    read = threading.Event()
    threading.Thread(target=starter.obey, args=(run, read), daemon=True).start()
    run.open()
    starter.report(run, run.failure)
    read.wait()
    run.read()
    while not run.wait(REPORT_EVERY_S):
        starter.report(run, run.failure)
    starter.report(run, run.failure, done=True)


class Starter:
    """The process that started this one, at the other end of a pipe."""

    def __init__(self, pipe: Connection):
        self._pipe = pipe
        self._sending = threading.Lock()

    def task(self) -> Task:
        """Receive the task; from now on the starter also handles the log records of this process."""
        try:
            sent = self._pipe.recv_bytes()
        except (EOFError, OSError):
            _end_at_once()
        task: Task = pickle.loads(sent)
        for name, level in task.log_levels.items():
            logging.getLogger(name).setLevel(level)
        logging.getLogger().addHandler(QueueHandler(self))  # type: ignore[arg-type]  # it only needs put_nowait
        return task

    def obey(self, run: Run, read: threading.Event) -> None:
        """Carry out its commands; end this process once the starter has ended: nobody wants the results."""
        for command in received(self._pipe):
            match command:
                case "read":
                    read.set()
                case "stop":
                    run.stop()
                case "abort":
                    run.abort()
                case "report":
                    self.report(run, run.failure)
        _end_at_once()

    def report(self, run: Run | None, error: Exception | None, *, done: bool = False) -> None:
        """Send the figures of this moment, and the failure if there is one."""
        failure, cause = _portable(error) if error else (None, None)
        self.put_nowait(ProcessState(run.stats() if run else None, failure, cause, done))

    def put_nowait(self, message: ProcessState | logging.LogRecord) -> None:
        """Send a message; the name is what `QueueHandler` expects."""
        try:
            with self._sending:
                self._pipe.send(message)
        except OSError:
            _end_at_once()


def _portable(error: Exception) -> tuple[PosestreamError, BaseException | None]:
    """The error and its cause if they can be pickled; else a `RunError` with the same text, and no cause."""
    if isinstance(error, PosestreamError):
        failure = error if _pickles(error) else RunError(str(error))
    else:
        failure = RunError(f"a process cannot begin: {type(error).__name__}: {error}")
    return failure, error.__cause__ if _pickles(error.__cause__) else None


def _pickles(error: BaseException | None) -> bool:
    try:
        # An exception whose constructor takes more arguments fails only when it is unpickled.
        pickle.loads(pickle.dumps(error))
    except Exception:  # pickle raises errors of any class
        return False
    return True


def _end_at_once() -> NoReturn:
    os._exit(1)
