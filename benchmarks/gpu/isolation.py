"""Work in processes of their own, within a time: what crashes or hangs costs one row, not all."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

LEAST_S = 5.0  # with less, nothing is begun
END_S = 10.0

Row = dict[str, Any]


class Deadline:
    """The moment at which all has to be done."""

    def __init__(self, minutes: float):
        self._end = time.monotonic() + 60 * minutes

    def left(self, at_most: float = float("inf")) -> float:
        """Seconds, from 0 up."""
        return max(0.0, min(self._end - time.monotonic(), at_most))


def aside(function: Callable[..., Iterator[Row]], *arguments: Any, within_s: float) -> tuple[list[Row], str]:
    """The rows that a function of a module yields, in a fresh process, and why there are no more.

    The second is empty if it came to its end; else it says, in one line, that it raised, crashed, or was not
    done in time (or that there was too little to begin). The rows until then are there all the same.
    """
    if within_s < LEAST_S:
        return [], "left out: the time is up"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    end, rows, why = time.monotonic() + within_s, [], f"not done in {within_s:.0f} s"
    try:
        while ours.poll(max(0.0, end - time.monotonic())):
            row, why_not, done = ours.recv()
            if done:
                why = why_not
                break
            rows.append(row)
    except EOFError:
        process.join(END_S)
        why = f"crashed with exit code {process.exitcode}"
    if not why.startswith("not done"):
        process.join(END_S)
    if process.is_alive():
        process.kill()
        process.join()
    return rows, why


def _work(answers: Connection, function: Callable[..., Iterator[Row]], arguments: tuple[Any, ...]) -> None:
    try:
        for row in function(*arguments):
            answers.send((row, "", False))
        why = ""
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
    answers.send((None, why, True))
