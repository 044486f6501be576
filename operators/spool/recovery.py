"""Load the segments that an earlier process has left in a folder, and repair what a kill has torn."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from operators.spool.format import HEADER, Damage, read_header, records_in

log = logging.getLogger("posestream.spool")


@dataclass(slots=True)
class Segment:
    """One file of records."""

    path: Path
    first: int  # index of its first record
    end: int  # index after its last record
    size: int  # in bytes, up to the end of the last complete record


def load_segments(folder: Path, count: Callable[[str, int], None]) -> Iterator[Segment]:
    """The segments in `folder`, the oldest first; empty ones are deleted, unreadable ones renamed.

    `count(name, n)` is called with `spool_damaged_segments` and `spool_torn`.

    Raises:
        OSError: the folder cannot be read or written.
    """
    previous: Segment | None = None
    # Read renamed segments, too: their headers say where the segment before them ends.
    for path in sorted([*folder.glob("*.spool"), *folder.glob("*.corrupt")]):
        try:
            first, previous_end = read_header(path)
        except (Damage, OSError) as error:
            if path.suffix == ".spool":
                log.error("%s cannot be read (%s); it is kept as .corrupt", path, error)
                count("spool_damaged_segments", 1)
                path.replace(path.with_suffix(".corrupt"))
            continue
        if previous is not None:
            previous.end = min(previous_end, first)
            yield from _unless_empty(previous)
        previous = Segment(path, first, first, path.stat().st_size) if path.suffix == ".spool" else None
    if previous is not None:
        yield from _unless_empty(_cut_off_torn_end(previous, count))


def _unless_empty(segment: Segment) -> Iterator[Segment]:
    if segment.end > segment.first:
        yield segment
    else:
        segment.path.unlink()  # the next segment may need this name


def _cut_off_torn_end(last: Segment, count: Callable[[str, int], None]) -> Segment:
    """Truncate the last segment after its last complete record; a killed process may leave half of one."""
    data = last.path.read_bytes()
    last.size = HEADER.size
    damage = ""
    try:
        for _, size in records_in(memoryview(data)[HEADER.size :]):
            last.size += size
            last.end += 1
    except Damage as error:
        damage = str(error)
    if last.size < len(data):
        if damage:
            last.path.with_suffix(".corrupt").write_bytes(data)
        count("spool_damaged_segments" if damage else "spool_torn", 1)
        log.warning(
            "%s: its last %d bytes are not a complete message (%s) and are left out",
            last.path, len(data) - last.size, damage or "it was being written",
        )  # fmt: skip
        os.truncate(last.path, last.size)
    return last
