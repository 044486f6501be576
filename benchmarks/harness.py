"""What the benchmarks share: measuring in turn, tables, and JSON with the machine and all versions."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.table import Table

from engines.assets.clips import available_clips, load_clip
from engines.assets.store import fetch
from tools.profiling.machine.hardware import this_machine

T = TypeVar("T")


def parser(doc: str, repeat: int | None = None) -> argparse.ArgumentParser:
    """The command line of a benchmark: with `--json`, and, if it measures in turn, with `--repeat`."""
    summary, _, more = doc.partition("\n")
    made = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")
    if repeat:
        made.add_argument("--repeat", type=int, default=repeat, help=f"rounds; default: {repeat}")
    return made


def result(
    rows: Sequence[Mapping[str, Any]], *, versions: Mapping[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    """The document of a benchmark: the command, the time, the machine, `more`, and the rows.

    Args:
        rows: the measurements, one for each line of the table; anything that JSON can hold.
        versions: versions of the peers, which have environments of their own.
        more: fields that hold for all rows.
    """
    machine = this_machine().model_dump(exclude_none=True)
    machine["versions"] |= versions or {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"command": command(), "at": now, "machine": machine, **more, "rows": list(rows)}


def write(path: Path | None, document: Mapping[str, Any]) -> None:
    """Write a document as JSON, if there is a path."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def command() -> str:
    """The command as it was typed; of files elsewhere only the names, to keep paths private."""
    words = [_without_folders(word) for word in sys.argv[1:]]
    program, here = Path(sys.argv[0]).resolve(), Path(__file__).resolve().parent
    name = program.relative_to(here).as_posix() if program.is_relative_to(here) else program.name
    return shlex.join(["python", f"benchmarks/{name}", *words])


def _without_folders(word: str) -> str:
    path = Path(word)
    return path.name if path.is_absolute() or ".." in path.parts else word


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; all columns but the first are figures."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@dataclass(frozen=True)
class Spread:
    """The median, the lowest and the highest of some figures."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Self:
        return cls(statistics.median(figures), min(figures), max(figures))

    def written(self, form: str = "{:.3g}", scale: float = 1.0) -> str:
        """The median, and, if they differ, the lowest and the highest in brackets."""
        median, low, high = (form.format(scale * value) for value in (self.median, self.low, self.high))
        return median if low == high else f"{median} ({low} to {high})"

    def __str__(self) -> str:
        return self.written()


def in_turn(cases: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Measure all cases once, then all again, so that a slow moment of the machine affects all of them.

    Every second round goes backwards, so that a case does not always follow the same other case.
    """
    found: dict[str, list[T]] = {name: [] for name in cases}
    for number in range(rounds):
        for name in list(cases)[:: -1 if number % 2 else 1]:
            found[name].append(cases[name]())
    return found


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours divided by theirs in each round, and the median of these ratios."""
    return Spread.of([one / other for one, other in zip(ours, theirs, strict=True)])


def sample_clip(name: str = "single-person") -> Path:
    """A sample clip, fetched on first use."""
    return fetch(load_clip(name).asset)


def sample_clips() -> list[Path]:
    """All sample clips, fetched on first use."""
    return [sample_clip(name) for name in available_clips()]
