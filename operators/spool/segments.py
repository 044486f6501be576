"""Records in segments on disk: appended and read in order, deleted once acknowledged. One process a folder.

A folder holds the segments (`<index of the first record>.spool`, see `operators/spool/format.py`), the file
`acknowledged` with the index up to which all records are acknowledged, and the file `lock`. Each record has
an index, one more than the record before it; indices never start again.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from operators.spool.folders import sync_and_close, sync_folder
from operators.spool.format import HEADER, RECORD, Damage, crc_of, header, records_in
from operators.spool.recovery import Segment, load_segments

ACKNOWLEDGED = struct.Struct("<QI")  # index after the last acknowledged record, CRC of it
CHUNK_BYTES = 1 << 18  # read at once

log = logging.getLogger("posestream.spool")


class Segments:
    """The segments of one folder, which the caller has locked.

    Losses are counted by calls of `count(name, n)`: `spool_dropped` (records dropped at the cap),
    `spool_damaged` (records that cannot be read, if their number is known), `spool_damaged_segments` and
    `spool_torn` (segments that end in an incomplete record).
    """

    def __init__(
        self, folder: Path, held: int, cap_bytes: int, fsync: str, count: Callable[[str, int], None]
    ):
        """Load what an earlier process has left in `folder`; `held` is the folder's lock.

        Raises:
            OSError: the folder cannot be read.
        """
        self.folder, self._held, self._cap, self._fsync, self._count = folder, held, cap_bytes, fsync, count
        self._segment_bytes = max(1, min(8 << 20, cap_bytes // 8))
        self._file: int | None = None  # the last segment, open for writing
        self._written = False  # since the last sync
        self._unsynced: list[int] = []  # full segments whose files must still be synced
        self._reading: Segment | None = None
        self._reader = self._offset = self._position = 0  # its file, the next byte, index of the record there
        self._full = False
        self._acknowledged_file = os.open(
            folder / "acknowledged", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        self._segments = deque(load_segments(folder, count))
        self.bytes = sum(segment.size for segment in self._segments)
        first = self._segments[0].first if self._segments else 0
        self.acknowledged = max(first, self._read_acknowledged())
        self.end = max(self.acknowledged, self._segments[-1].end if self._segments else 0)
        self.next_read = self.acknowledged  # index of the record that `read` returns next

    # Writing

    def append(self, records: Sequence[bytes], first: int) -> None:
        """Write records, all or none; `first` is the index of the first one.

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
            _write_all(file, data)
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
            _write_all(file, header(first, self._segments[-1].end if self._segments else first))
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
        """Cut off an incomplete write and close the segment; the next record begins a new one."""
        with suppress(OSError):  # then the CRC shows a reader that the record is incomplete
            os.ftruncate(self._file, segment.size)  # type: ignore[arg-type]
        self._close_file()
        if segment.end == segment.first:
            self._segments.pop()
            self._delete(segment)

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
        """Files written since the last call; the caller must sync and close them."""
        files, self._unsynced = self._unsynced, []
        if self._file is not None and self._written:
            files.append(os.dup(self._file))
        self._written = False
        return files

    # Reading

    def read(self, max_bytes: int) -> list[tuple[int, bytes]]:
        """The next records with their indices, about `max_bytes` in all; an empty list at the end."""
        found: list[tuple[int, bytes]] = []
        size = 0
        while size < max_bytes and self._find_segment():
            assert self._reading is not None
            try:
                for record in self._chunk(self._reading):
                    if self._position >= self.next_read:
                        found.append((self._position, record))
                        size += len(record)
                        self.next_read = self._position + 1
                    self._position += 1
            except (Damage, OSError) as error:
                self._set_aside(self._reading, self._position, str(error))
        if self.drained:
            self._full = False
        return found

    def _find_segment(self) -> bool:
        """Open the segment of the next record; False if there is no next record yet."""
        if self._reading is not None:
            if self._position < self._reading.end:
                return True
            if self._is_written(self._reading):  # more records will be appended to it
                return False
            self._stop_reading()
        for segment in list(self._segments):
            if segment.end > self.next_read:
                try:
                    self._reader = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    self._set_aside(segment, segment.first, str(error))
                    continue
                self._reading, self._offset, self._position = segment, HEADER.size, segment.first
                return True
        return False

    def _chunk(self, segment: Segment) -> Iterator[bytes]:
        """The records of the next chunk of a segment, at least one."""
        rest = segment.size - self._offset
        data = os.pread(self._reader, min(CHUNK_BYTES, rest), self._offset)
        if len(data) >= RECORD.size and (length := RECORD.unpack_from(data)[0]) > len(data) - RECORD.size:
            data = os.pread(self._reader, min(RECORD.size + length, rest), self._offset)
        before = self._offset
        for record, size in records_in(data):
            if self._position == segment.end:  # an abandoned write, repeated in the next segment
                return
            self._offset += size
            yield record
        if self._offset == before:
            raise Damage(f"it ends within record {self._position}")

    def _stop_reading(self) -> None:
        if self._reading is not None:
            os.close(self._reader)
            self._reading = None

    def _set_aside(self, segment: Segment, index: int, reason: str) -> None:
        """Skip a segment whose records from `index` on cannot be read; its file is kept as `.corrupt`."""
        kept = segment.path.with_suffix(".corrupt")
        lost = segment.end - max(index, self.next_read)
        log.error(
            "%s is damaged (%s): %d messages lost; it is kept as %s", segment.path, reason, lost, kept.name
        )
        self._count("spool_damaged", lost)
        self._count("spool_damaged_segments", 1)
        if self._reading is segment:
            self._stop_reading()
        self.next_read = max(self.next_read, segment.end)
        if segment is self._segments[-1]:
            self._close_file()
        self._segments.remove(segment)
        self.bytes -= segment.size
        with suppress(OSError):  # the file may have been deleted
            segment.path.replace(kept)

    @property
    def first(self) -> int | None:
        """The index of the oldest record on disk; None if there is none."""
        return self._segments[0].first if self._segments else None

    @property
    def drained(self) -> bool:
        """Whether all records have been read."""
        return self.next_read >= self.end

    # Acknowledging

    def acknowledge(self, end: int) -> None:
        """Note that all records below the index `end` are acknowledged; delete segments with no others."""
        if end <= self.acknowledged:
            return
        self.acknowledged = end
        index = struct.pack("<Q", end)
        with suppress(OSError):  # after a restart they may be sent again, which readers recognise
            os.pwrite(self._acknowledged_file, index + struct.pack("<I", zlib.crc32(index, 1)), 0)
        while self._segments and self._segments[0].end <= end and not self._is_written(self._segments[0]):
            self._delete_oldest()

    def _read_acknowledged(self) -> int:
        found = os.pread(self._acknowledged_file, ACKNOWLEDGED.size, 0)
        if len(found) < ACKNOWLEDGED.size:
            return 0
        end, crc = ACKNOWLEDGED.unpack(found)
        return end if zlib.crc32(found[:8], 1) == crc else 0

    def _is_written(self, segment: Segment) -> bool:
        return self._file is not None and segment is self._segments[-1]

    def _delete_oldest(self) -> None:
        segment = self._segments.popleft()
        if self._reading is segment:
            self._stop_reading()
        self._delete(segment)

    def _delete(self, segment: Segment) -> None:
        self.bytes -= segment.size
        try:
            segment.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot delete %s: %s", segment.path, error.strerror)

    # Closing

    def close(self) -> None:
        """Sync what is unsynced, delete acknowledged segments, and release the folder's lock."""
        self._stop_reading()
        self._close_file()
        for file in self.take_unsynced():
            sync_and_close(file)
        while self._segments and self._segments[0].end <= self.acknowledged:
            self._delete_oldest()
        os.close(self._acknowledged_file)
        os.close(self._held)

    def _close_file(self) -> None:
        if self._file is not None:
            if self._written and self._fsync == "interval":
                self._unsynced.append(self._file)
            else:
                os.close(self._file)
            self._file = None


def _write_all(file: int, data: bytes) -> None:
    """Write all of `data` at the end of a file.

    Raises:
        OSError: the write failed; a part of the data may be in the file.
    """
    written = os.write(file, data)
    while written < len(data):
        written += os.write(file, data[written:])
