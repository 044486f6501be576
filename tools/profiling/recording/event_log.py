"""What a process records, in files: rows of whole numbers, and a list of the names that they mean.

Threads only append a tuple; another thread packs and writes them now and then, so memory stays bounded
however long a run is.
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
LIMIT_BYTES = 512 * 2**20  # of one process: hours of ten stages at 100 frames/s; what comes then is counted
CHUNK_BYTES = 1 << 20


class Kind(IntEnum):
    """What a row tells: its first number. Times are monotonic ns, names are indices, -1 is nothing."""

    CALL = 0  # lane, start, end, processor ns, packets in and out, bytes, then (stream, seq, queued) of each
    ENGINE = 1  # lane, engine, start, end, ns making inputs, items, bytes in, out, copied, then device times
    BLOCKED = 2  # lane, since, until: waited for room behind it
    FINISHED = 3  # last stage, at, then (stream, seq) of each packet that left the graph there
    OPENED = 4  # stage, bytes by which the process grew
    SAMPLE = 5  # stack, at, processor ns
    STILL = 6  # place, at, ns
    LATE = 7  # at, ns for which a thread waited for the interpreter lock
    MISSED = 8  # rows that were beyond the limit


Row = Sequence[int]


class Log:
    """Files of one process: `add` rows from any thread."""

    def __init__(self, path: Path):
        """Begin the files `path`.rows and `path`.names, in place of old ones."""
        self._rows: deque[tuple[int, ...]] = deque()
        self.add = self._rows.append
        self._names: dict[Hashable, int] = {}
        self._unwritten: list[str] = []
        self._naming = threading.Lock()
        self._rows_path, self._names_path = _paths(path)
        self._rows_path.write_bytes(b"")
        self._names_path.write_bytes(b"")
        self._room = LIMIT_BYTES
        self._missed = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="profiler-writes", daemon=True)
        self._thread.start()

    def name(self, *what: str | int) -> int:
        """The number that stands for these words, the same for the same."""
        known = self._names.get(what)
        if known is not None:
            return known
        with self._naming:
            if what not in self._names:
                self._unwritten.append(json.dumps(what))
            index = self._names.setdefault(what, len(self._names))
        return index

    def close(self) -> None:
        """Write what is left; nothing may be added any more."""
        self._closing.set()
        self._thread.join()
        if self._missed:
            log.warning("%d rows were not recorded: the limit is %d MB", self._missed, LIMIT_BYTES // 2**20)

    def _work(self) -> None:
        try:
            while not self._closing.wait(WRITE_S):
                self._write()
            self._write()
            if self._missed:
                self._room = CHUNK_BYTES
                self.add((Kind.MISSED, self._missed))
                self._write()
        except OSError as error:
            log.error("cannot record any more: %s: %s", self._rows_path, error.strerror)
            while not self._closing.wait(WRITE_S):
                self._rows.clear()

    def _write(self) -> None:
        words = array("q")
        while self._rows:
            row = self._rows.popleft()
            if self._room <= 0:
                self._missed += 1
                continue
            words.append(len(row))
            words.extend(row)
            self._room -= 8 * (len(row) + 1)
        with self._naming:  # all that these rows mean was named before they were added
            names, self._unwritten = self._unwritten, []
        if names:
            with self._names_path.open("a", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in names)
        if words:
            with self._rows_path.open("ab") as file:
                words.tofile(file)


class LogFile(NamedTuple):
    """The files of a process, to read."""

    path: Path

    def names(self) -> list[list[Any]]:
        """What the numbers of its rows mean."""
        with _paths(self.path)[1].open(encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.endswith("\n")]

    def rows(self) -> Iterator[Row]:
        """Its rows, in the order in which they were added; a thread adds what it does at the end of it."""
        words = array("q")
        with _paths(self.path)[0].open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                words.frombytes(chunk[: len(chunk) // 8 * 8])
                at = 0
                while at < len(words) and at + words[at] < len(words):
                    yield words[at + 1 : at + 1 + words[at]]
                    at += 1 + words[at]
                del words[:at]


def logs(folder: Path) -> list[LogFile]:
    """Those of all processes that have recorded to a folder.

    Raises:
        ConfigError: there are none.
    """
    found = [LogFile(path.with_suffix("")) for path in sorted(folder.glob("*.rows"))]
    if not found:
        raise ConfigError(f"nothing was recorded in {folder}; expected the files of a Recorder")
    return found


def _paths(path: Path) -> tuple[Path, Path]:
    return path.with_suffix(".rows"), path.with_suffix(".names")
