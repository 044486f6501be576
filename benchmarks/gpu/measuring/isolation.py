"""Measurements in processes of their own, with a time limit: a crash or a hang costs one row, not all."""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LEAST_S = 5.0  # with less time left, nothing is started
EXIT_S = 10.0  # for a process to exit after its last row
STACKS_S = 1.0  # before the time is up, the stacks of all threads are logged

Row = dict[str, Any]


class Deadline:
    """The moment at which all measurements must be done."""

    def __init__(self, minutes: float):
        self._end = time.monotonic() + 60 * minutes

    def left(self, at_most: float = float("inf")) -> float:
        """Seconds until the deadline, 0 or more."""
        return max(0.0, min(self._end - time.monotonic(), at_most))


def run_isolated(
    function: Callable[..., Iterator[Row]] | str,
    *arguments: Any,
    within_s: float,
    log: Path | None = None,
) -> tuple[list[Row], str]:
    """Call a generator function of a module in a fresh process.

    Args:
        function: the function, or its name, `module:function`, if only the fresh process is to import it.
        arguments: of the function.
        within_s: the time limit, s.
        log: a file to which all output of the process is appended, with the traceback of an error and, before
            the time is up, the stacks of all threads.

    Returns:
        The rows that it has yielded, and why there are no more: "" if it returned, otherwise one line:
        that it raised an error, crashed, was not done in time, or was not started for lack of time.
    """
    if within_s < LEAST_S:
        return [], "left out: the time is up"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, function, arguments, within_s, log))
    process.start()
    theirs.close()
    end, rows, reason = time.monotonic() + within_s, [], f"not done in {within_s:.0f} s"
    try:
        while ours.poll(max(0.0, end - time.monotonic())):
            row, final_reason, done = ours.recv()
            if done:
                reason = final_reason
                break
            rows.append(row)
    except EOFError:
        process.join(EXIT_S)
        reason = f"crashed with exit code {process.exitcode}"
    if not reason.startswith("not done"):
        process.join(EXIT_S)
    if process.is_alive():
        process.kill()
        process.join()
    return rows, reason


def _work(
    answers: Connection,
    function: Callable[..., Iterator[Row]] | str,
    arguments: tuple[Any, ...],
    within_s: float,
    log: Path | None,
) -> None:
    if log:
        _write_to(log)
        faulthandler.dump_traceback_later(max(within_s - STACKS_S, STACKS_S))
    try:
        for row in _found(function)(*arguments):
            answers.send((row, "", False))
        reason = ""
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
    faulthandler.cancel_dump_traceback_later()
    answers.send((None, reason, True))


def _found(function: Callable[..., Iterator[Row]] | str) -> Callable[..., Iterator[Row]]:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def _write_to(log: Path) -> None:
    """Append what this process prints, libraries in C included, to a file."""
    with log.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    faulthandler.enable()  # a crash in C then leaves the stacks of all threads, too
