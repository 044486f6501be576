"""Records in files: appended in order, read in order, deleted once acknowledged. One process, one folder.

A folder holds segments, `<index of the first record>.spool`, as `operators/spool/format.py` says, the index
up to which all is `acknowledged`, and a `lock`. Indices grow by one a record and never start again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from operators.spool.format import HEADER, RECORD, Damage, crc_of, header, read_header, records_in

ACKNOWLEDGED = struct.Struct("<QI")  # index behind the last acknowledged record, CRC of it
CHUNK = 1 << 18  # read at once

log = logging.getLogger("posestream.spool")


@dataclass(slots=True)
class Segment:
    """One file of records."""

    path: Path
    first: int  # index of its first record
    end: int  # index behind its last
    size: int  # bytes, whole records only


class SpoolFiles:
    """The segments of one folder, which `lock` has locked.

    `count` is told of losses: `spool_dropped` (records, the cap was reached), `spool_damaged` (records that
    cannot be read any more, if their number is known), `spool_damaged_segments`, `spool_torn` (segments
    that end in a half written record).
    """

    def __init__(
        self, folder: Path, held: int, cap_bytes: int, fsync: str, count: Callable[[str, int], None]
    ):
        """Read what an earlier process has left in a folder; `held` is its lock.

        Raises:
            OSError: the folder cannot be read.
        """
        self.folder, self._held, self._cap, self._fsync, self._count = folder, held, cap_bytes, fsync, count
        self._segment_bytes = max(1, min(8 << 20, cap_bytes // 8))
        self._file: int | None = None  # being written: the last segment
        self._written = False  # since the last sync
        self._unsynced: list[int] = []  # files of full segments that are still to be synced
        self._at: Segment | None = None  # being read
        self._reader = self._offset = self._position = 0  # file, byte, index of the record there
        self._full = False
        self._marks = os.open(folder / "acknowledged", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._segments = deque(self._load())
        self.bytes = sum(segment.size for segment in self._segments)
        first = self._segments[0].first if self._segments else 0
        self.acknowledged = max(first, self._read_mark())
        self.end = max(self.acknowledged, self._segments[-1].end if self._segments else 0)
        self.next_read = self.acknowledged  # index of the record that `read` gives next

    # Writing

    def append(self, records: Sequence[bytes], first: int) -> None:
        """Write records, the first of which has the index `first`; either all of them or none.

        Raises:
            OSError: they cannot be written.
        """
        parts: list[bytes] = []
        for record in records:
            parts += [RECORD.pack(len(record), crc_of(record)), record]
        data = b"".join(parts)
        full = self._file is None or self._segments[-1].size + len(data) > self._segment_bytes
        if full or self._segments[-1].end != first:
            self._begin_segment(first)
        self._make_room(len(data))
        file, segment = self._file, self._segments[-1]
        assert file is not None  # _begin_segment has opened it
        try:
            write_whole(file, data)
            if self._fsync == "always":
                os.fsync(file)
        except OSError:
            self._abandon(segment)
            raise
        self._written = True
        segment.size += len(data)
        segment.end = self.end = first + len(records)
        self.bytes += len(data)

    def _begin_segment(self, first: int) -> None:
        self._close_file()
        path = self.folder / f"{first:020d}.spool"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            write_whole(file, header(first, self._segments[-1].end if self._segments else first))
            if self._fsync == "always":
                sync_folder(self.folder)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        self._file = file
        self._segments.append(Segment(path, first, first, HEADER.size))
        self.bytes += HEADER.size

    def _abandon(self, segment: Segment) -> None:
        """Cut off what was half written; the next record goes into a segment of its own."""
        with suppress(OSError):  # the CRC tells
            os.ftruncate(self._file, segment.size)  # type: ignore[arg-type]
        self._close_file()
        if segment.end == segment.first:
            self._segments.pop()
            self._remove(segment)

    def _make_room(self, size: int) -> None:
        """Drop the oldest segments until `size` more bytes fit under the cap."""
        while self.bytes + size > self._cap and len(self._segments) > 1:
            oldest = self._segments[0]
            lost = oldest.end - max(self.next_read, oldest.first)
            self.next_read = max(self.next_read, oldest.end)
            self._delete_oldest()
            if lost > 0:
                self._count("spool_dropped", lost)
                if not self._full:
                    log.error(
                        "%s has reached %d bytes: the oldest messages are dropped", self.folder, self._cap
                    )
                self._full = True

    def take_unsynced(self) -> list[int]:
        """Files, for the caller to sync and close, that hold what was written since the last call."""
        files, self._unsynced = self._unsynced, []
        if self._file is not None and self._written:
            files.append(os.dup(self._file))
        self._written = False
        return files

    # Reading

    def read(self, max_bytes: int) -> list[tuple[int, bytes]]:
        """The next records with their indices, about `max_bytes` of them; at the end, none."""
        found: list[tuple[int, bytes]] = []
        size = 0
        while size < max_bytes and self._find():
            assert self._at is not None
            try:
                for record in self._chunk(self._at):
                    if self._position >= self.next_read:
                        found.append((self._position, record))
                        size += len(record)
                        self.next_read = self._position + 1
                    self._position += 1
            except (Damage, OSError) as error:
                self._set_aside(self._at, self._position, str(error))
        if self.drained:
            self._full = False
        return found

    def _find(self) -> bool:
        """Go to the segment of the next record, if there is one."""
        if self._at is not None:
            if self._position < self._at.end:
                return True
            if self._writes(self._at):  # there will be more in it
                return False
            self._leave()
        for segment in list(self._segments):
            if segment.end > self.next_read:
                try:
                    self._reader = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    self._set_aside(segment, segment.first, str(error))
                    continue
                self._at, self._offset, self._position = segment, HEADER.size, segment.first
                return True
        return False

    def _chunk(self, segment: Segment) -> Iterator[bytes]:
        """The records of the next chunk of a segment, at least one."""
        rest = segment.size - self._offset
        data = os.pread(self._reader, min(CHUNK, rest), self._offset)
        if len(data) >= RECORD.size and (length := RECORD.unpack_from(data)[0]) > len(data) - RECORD.size:
            data = os.pread(self._reader, min(RECORD.size + length, rest), self._offset)
        before = self._offset
        for record, size in records_in(data):
            if self._position == segment.end:  # what follows was half written, and has been written elsewhere
                return
            self._offset += size
            yield record
        if self._offset == before:
            raise Damage(f"it ends within record {self._position}")

    def _leave(self) -> None:
        if self._at is not None:
            os.close(self._reader)
            self._at = None

    def _set_aside(self, segment: Segment, index: int, reason: str) -> None:
        """Go on behind a segment whose records from `index` on cannot be read; its file is kept."""
        kept = segment.path.with_suffix(".corrupt")
        lost = segment.end - max(index, self.next_read)
        log.error(
            "%s is damaged (%s): %d messages lost; it is kept as %s", segment.path, reason, lost, kept.name
        )
        self._count("spool_damaged", lost)
        self._count("spool_damaged_segments", 1)
        if self._at is segment:
            self._leave()
        self.next_read = max(self.next_read, segment.end)
        if segment is self._segments[-1]:
            self._close_file()
        self._segments.remove(segment)
        self.bytes -= segment.size
        with suppress(OSError):  # it may be gone altogether
            segment.path.replace(kept)

    @property
    def first(self) -> int | None:
        """The index of the oldest record that is there."""
        return self._segments[0].first if self._segments else None

    @property
    def drained(self) -> bool:
        """Whether all records have been read."""
        return self.next_read >= self.end

    # Acknowledging

    def acknowledge(self, end: int) -> None:
        """All records below the index `end` are done with: note it, and delete segments of none but such."""
        if end <= self.acknowledged:
            return
        self.acknowledged = end
        mark = struct.pack("<Q", end)
        with suppress(OSError):  # they may be sent twice after a restart, which can be told
            os.pwrite(self._marks, mark + struct.pack("<I", zlib.crc32(mark, 1)), 0)
        while self._segments and self._segments[0].end <= end and not self._writes(self._segments[0]):
            self._delete_oldest()

    def _writes(self, segment: Segment) -> bool:
        return self._file is not None and segment is self._segments[-1]

    def _delete_oldest(self) -> None:
        segment = self._segments.popleft()
        if self._at is segment:
            self._leave()
        self._remove(segment)

    def _remove(self, segment: Segment) -> None:
        self.bytes -= segment.size
        try:
            segment.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot delete %s: %s", segment.path, error.strerror)

    def _read_mark(self) -> int:
        found = os.pread(self._marks, ACKNOWLEDGED.size, 0)
        if len(found) < ACKNOWLEDGED.size:
            return 0
        end, crc = ACKNOWLEDGED.unpack(found)
        return end if zlib.crc32(found[:8], 1) == crc else 0

    def close(self) -> None:
        """Give the folder back; segments of which everything is acknowledged are deleted."""
        self._leave()
        self._close_file()
        for file in self.take_unsynced():
            sync_and_close(file)
        while self._segments and self._segments[0].end <= self.acknowledged:
            self._delete_oldest()
        os.close(self._marks)
        os.close(self._held)

    def _close_file(self) -> None:
        if self._file is not None:
            if self._written and self._fsync == "interval":
                self._unsynced.append(self._file)
            else:
                os.close(self._file)
            self._file = None

    # What an earlier process has left

    def _load(self) -> Iterator[Segment]:
        """The segments that are there, the oldest first."""
        previous: Segment | None = None
        # Those set aside tell where the segment before them ends.
        for path in sorted([*self.folder.glob("*.spool"), *self.folder.glob("*.corrupt")]):
            try:
                first, previous_end = read_header(path)
            except (Damage, OSError) as error:
                if path.suffix == ".spool":
                    log.error("%s cannot be read (%s); it is kept as .corrupt", path, error)
                    self._count("spool_damaged_segments", 1)
                    path.replace(path.with_suffix(".corrupt"))
                continue
            if previous is not None:
                previous.end = min(previous_end, first)
                yield from self._if_any(previous)
            previous = Segment(path, first, first, path.stat().st_size) if path.suffix == ".spool" else None
        if previous is not None:
            yield from self._if_any(self._whole(previous))

    @staticmethod
    def _if_any(segment: Segment) -> Iterator[Segment]:
        if segment.end > segment.first:
            yield segment
        else:
            segment.path.unlink()  # the next record may need its name

    def _whole(self, last: Segment) -> Segment:
        """The last segment, cut off behind its last whole record; a killed process may leave half of one."""
        data = last.path.read_bytes()
        last.size = HEADER.size
        reason = ""
        try:
            for _, size in records_in(memoryview(data)[HEADER.size :]):
                last.size += size
                last.end += 1
        except Damage as error:
            reason = str(error)
        if last.size < len(data):
            if reason:
                last.path.with_suffix(".corrupt").write_bytes(data)
            self._count("spool_damaged_segments" if reason else "spool_torn", 1)
            log.warning(
                "%s: its last %d bytes are no message (%s) and are left out",
                last.path, len(data) - last.size, reason or "it was being written",
            )  # fmt: skip
            os.truncate(last.path, last.size)
        return last


def lock(folder: Path) -> int | None:
    """Lock a folder for this process, until it closes what this returns or dies; None: another one holds it.

    Raises:
        OSError: the folder cannot be written.
    """
    held = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return held


def write_whole(file: int, data: bytes) -> None:
    """Write all of `data` at the end of a file.

    Raises:
        OSError: no more could be written; a part of it may have been.
    """
    written = os.write(file, data)
    while written < len(data):
        written += os.write(file, data[written:])


def sync_and_close(file: int) -> None:
    """Have a file put on the disk itself, then close it.

    Raises:
        OSError: the disk does not take it.
    """
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder put on the disk itself.

    Raises:
        OSError: the disk does not take it.
    """
    sync_and_close(os.open(folder, os.O_RDONLY | os.O_CLOEXEC))
