"""A command that consists of parts: each in a process of its own, one line a part, one JSON, one log.

The JSON is written after each part, so nothing is lost if the command is stopped. A part that fails does not
stop the others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import harness

from measuring.isolation import Deadline, Row, run_isolated
from measuring.result_files import document, log_path, result_path

OK, FAILED, NOT_RUN = "ok", "failed", "not run"
SHOWN = 110  # characters of a part's line


class Report:
    """Runs parts and writes down what they find.

    A part is a generator of rows. A row `{NOT_RUN: reason}` says that the part cannot run here, which is no
    failure. So do rows of other things if all of them have NOT_RUN.

    Args:
        kind: of the result, for the file's name.
        given: the options, see `result_files.parser`.
        more: fields of the JSON that hold for all parts.
    """

    def __init__(self, kind: str, given: argparse.Namespace, **more: Any):
        self.path = result_path(kind, given)
        self.log = log_path(self.path)
        self.parts: list[Row] = []
        self._document = document([], given, **more)
        self._deadline = Deadline(given.minutes)

    @property
    def failed(self) -> bool:
        """Whether a part has failed, or none has run."""
        states = {part["state"] for part in self.parts}
        return FAILED in states or OK not in states

    def run(
        self, name: str, function: Callable[..., Iterator[Row]] | str, *arguments: Any, within_s: float
    ) -> list[Row]:
        """Run a part within its time limit and that of the command; its rows."""
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n===== {name}\n")
        start = time.monotonic()
        within_s = self.left(within_s)
        found, why = run_isolated(function, *arguments, within_s=within_s, log=self.log)
        whole = [row for row in found if row.keys() == {NOT_RUN}]
        none_ran = found and all(NOT_RUN in row for row in found)
        reasons = [row[NOT_RUN] for row in (found if none_ran else whole)]
        state = FAILED if why else NOT_RUN if reasons else OK
        rows = [row for row in found if row not in whole]
        self.add(name, state, why or "".join(reasons[:1]), rows, time.monotonic() - start)
        return rows

    def left(self, at_most: float) -> float:
        """Seconds until the command's time limit."""
        return self._deadline.left(at_most)

    def add(self, name: str, state: str, why: str, rows: list[Row], seconds: float) -> None:
        """Write down a part that has run, and print its line."""
        self.parts.append(
            {"part": name, "state": state, "why": why, "seconds": round(seconds, 1), "rows": rows}
        )
        harness.write(self.path, self._document | {"rows": self.parts})
        figures = why or ", ".join(f"{key} {value}" for key, value in (rows[-1] if rows else {}).items())
        print(f"{state:7} {seconds:6.1f} s  {name:28} {figures[:SHOWN]}", flush=True)

    def close(self) -> int:
        """Print where the result is; the exit code of the command."""
        print(f"{self.path}\n{self.log}")
        return 1 if self.failed else 0
