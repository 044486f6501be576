"""A process of a split run: the whole graph on a share of the sources. It obeys the one that started it."""

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
from pipeline.processes.split_run import SIGNALS, Report, Task, received
from pipeline.run import Run

REPORT_EVERY_S = 0.2


def work(handle: int) -> None:
    """All that the process does; `handle` is its end of the pipe to the one that started it."""
    # Ctrl-C goes to the whole terminal; the starter hears it too, and says what is to be done.
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
    """The process that started this one."""

    def __init__(self, pipe: Connection):
        self._pipe = pipe
        self._sending = threading.Lock()

    def task(self) -> Task:
        """What it wants done; from now on it also handles what is logged here."""
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
        """Do what it says, until it is gone; without it nobody wants the results."""
        for told in received(self._pipe):
            match told:
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
        """Send the figures of this moment, and what has gone wrong."""
        failure, cause = _portable(error) if error else (None, None)
        self.put_nowait(Report(run.stats() if run else None, failure, cause, done))

    def put_nowait(self, message: Report | logging.LogRecord) -> None:
        """Send something to it."""
        try:
            with self._sending:
                self._pipe.send(message)
        except OSError:
            _end_at_once()


def _portable(error: Exception) -> tuple[PosestreamError, BaseException | None]:
    """An error that can be sent, the same where that can be pickled, and its cause likewise."""
    if isinstance(error, PosestreamError):
        failure = error if _pickles(error) else RunError(str(error))
    else:
        failure = RunError(f"a process cannot begin: {type(error).__name__}: {error}")
    return failure, error.__cause__ if _pickles(error.__cause__) else None


def _pickles(error: BaseException | None) -> bool:
    try:
        pickle.loads(
            pickle.dumps(error)
        )  # an exception whose constructor takes more fails only in the second
    except Exception:  # pickle raises what it likes
        return False
    return True


def _end_at_once() -> NoReturn:
    os._exit(1)
