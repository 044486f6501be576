"""The files that a process records to: rows of integers, and the names that some of these stand for.

Threads only append a tuple; a thread of the log writes the tuples to disk twice a second, so memory stays
bounded however long a run is.
"""

from __future__ import annotations

import json
import logging
import threading
from array import array
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import ConfigError

log = logging.getLogger("posestream.profile")

WRITE_S = 0.5
LIMIT_BYTES = 512 * 2**20  # a process: hours of ten stages at 100 frames/s; later rows are only counted
CHUNK_BYTES = 1 << 20


class Kind(IntEnum):
    """What a row records: its first number. Times are monotonic ns, names are numbers, -1 is none."""

    CALL = 0  # lane, start, end, processor ns, packets in, packets out, bytes; (stream, seq, queued) of each
    ENGINE = 1  # lane, engine, start, end, ns making inputs, items, bytes in, out, copied; device times
    BLOCKED = 2  # lane, since, until: waited for room on the edges behind it
    FINISHED = 3  # last stage, at; (stream, seq) of each packet that left the graph there
    OPENED = 4  # stage, bytes by which the process grew while the stage was opened
    SAMPLE = 5  # stack, at, processor ns
    STILL = 6  # place at which a stage stood still, at, ns
    LATE = 7  # at, ns for which a thread waited for the interpreter lock
    MISSED = 8  # rows beyond the limit, which were not kept


Row = Sequence[int]


class EventLog:
    """Writes the files of one process; any thread may `add` rows."""

    def __init__(self, path: Path):
        """Begin the files `path`.rows and `path`.names, replacing old ones."""
        self._rows: deque[tuple[int, ...]] = deque()
        self.add = self._rows.append
        self._names: dict[Hashable, int] = {}
        self._unwritten: list[str] = []
        self._naming = threading.Lock()
        self._rows_path, self._names_path = _paths(path)
        self._rows_path.write_bytes(b"")
        self._names_path.write_bytes(b"")
        self._bytes_left = LIMIT_BYTES
        self._missed = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_until_closed, name="profiler-writes", daemon=True)
        self._thread.start()

    def name(self, *words: str | int) -> int:
        """The number that stands for these words in rows; the same words have the same number."""
        known = self._names.get(words)
        if known is not None:
            return known
        with self._naming:
            if words not in self._names:
                self._unwritten.append(json.dumps(words))
            return self._names.setdefault(words, len(self._names))

    def close(self) -> None:
        """Write the remaining rows; none may be added afterwards."""
        self._closing.set()
        self._thread.join()
        if self._missed:
            log.warning(
                "%d rows were not recorded: the limit of %d MB is reached", self._missed, LIMIT_BYTES // 2**20
            )

    def _write_until_closed(self) -> None:
        try:
            while not self._closing.wait(WRITE_S):
                self._write()
            self._write()
            if self._missed:
                self._bytes_left = CHUNK_BYTES
                self.add((Kind.MISSED, self._missed))
                self._write()
        except OSError as error:
            log.error("recording stops, the run goes on: %s: %s", self._rows_path, error.strerror)
            while not self._closing.wait(WRITE_S):
                self._rows.clear()

    def _write(self) -> None:
        words = array("q")
        while self._rows:
            row = self._rows.popleft()
            if self._bytes_left <= 0:
                self._missed += 1
                continue
            words.append(len(row))
            words.extend(row)
            self._bytes_left -= 8 * (len(row) + 1)
        with self._naming:  # the names in these rows were made before the rows were added
            names, self._unwritten = self._unwritten, []
        if names:
            with self._names_path.open("a", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in names)
        if words:
            with self._rows_path.open("ab") as file:
                words.tofile(file)


class EventLogFile(NamedTuple):
    """Reads the files of one process."""

    path: Path

    def names(self) -> list[list[Any]]:
        """The words that the numbers in its rows stand for."""
        with _paths(self.path)[1].open(encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.endswith("\n")]

    def rows(self) -> Iterator[Row]:
        """Its rows in the order in which they were added; a thread adds a call when the call ends."""
        words = array("q")
        with _paths(self.path)[0].open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                words.frombytes(chunk[: len(chunk) // 8 * 8])
                start = 0
                while start < len(words) and start + words[start] < len(words):
                    yield words[start + 1 : start + 1 + words[start]]
                    start += 1 + words[start]
                del words[:start]  # the last row may go on in the next chunk


def event_logs(folder: Path) -> list[EventLogFile]:
    """The logs of all processes that have recorded to a folder.

    Raises:
        ConfigError: there are none.
    """
    found = [EventLogFile(path.with_suffix("")) for path in sorted(folder.glob("*.rows"))]
    if not found:
        raise ConfigError(f"nothing was recorded in {folder}; expected the files of a Recorder")
    return found


def _paths(path: Path) -> tuple[Path, Path]:
    return path.with_suffix(".rows"), path.with_suffix(".names")
