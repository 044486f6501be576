"""Measurements in processes of their own, with a time limit: a crash or a hang costs one row, not all."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

LEAST_S = 5.0  # with less time left, nothing is started
EXIT_S = 10.0  # for a process to exit after its last row

Row = dict[str, Any]


class Deadline:
    """The moment at which all measurements must be done."""

    def __init__(self, minutes: float):
        self._end = time.monotonic() + 60 * minutes

    def left(self, at_most: float = float("inf")) -> float:
        """Seconds until the deadline, 0 or more."""
        return max(0.0, min(self._end - time.monotonic(), at_most))


def run_isolated(
    function: Callable[..., Iterator[Row]], *arguments: Any, within_s: float
) -> tuple[list[Row], str]:
    """Call a generator function of a module in a fresh process.

    Returns:
        The rows that it has yielded, and why there are no more: "" if it returned, otherwise one line:
        that it raised an error, crashed, was not done in time, or was not started for lack of time.
    """
    if within_s < LEAST_S:
        return [], "left out: the time is up"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, function, arguments))
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


def _work(answers: Connection, function: Callable[..., Iterator[Row]], arguments: tuple[Any, ...]) -> None:
    try:
        for row in function(*arguments):
            answers.send((row, "", False))
        reason = ""
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
    answers.send((None, reason, True))
