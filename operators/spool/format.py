"""The format of a spool's segments.

A segment is a header and records. The header: magic with version, index of the segment's first record, index
after the last record of the previous segment, CRC-32. A record: length, CRC-32, data. The CRC starts from the
length, so that a run of zeros is not a valid record. All numbers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

HEADER = struct.Struct("<8sQQI")
MAGIC = b"pspool\0\1"
RECORD = struct.Struct("<II")  # length, CRC


class Damage(Exception):  # noqa: N818 - never leaves the spool
    """A header or a record is not valid."""


def records_in(data: bytes | memoryview) -> Iterator[tuple[bytes, int]]:
    """The complete records at the beginning of `data`, each with its size in the file in bytes.

    Raises:
        Damage: a complete record has a wrong CRC, or the length 0.
    """
    offset, end = 0, len(data)
    while offset + RECORD.size <= end:
        length, crc = RECORD.unpack_from(data, offset)
        start = offset + RECORD.size
        if start + length > end:
            return
        record = bytes(data[start : start + length])
        if not length or crc_of(record) != crc:
            raise Damage(f"wrong checksum at byte {HEADER.size + offset}")
        yield record, RECORD.size + length
        offset = start + length


def header(first: int, previous_end: int) -> bytes:
    """The header of a segment."""
    fields = struct.pack("<8sQQ", MAGIC, first, previous_end)
    return fields + struct.pack("<I", zlib.crc32(fields))


def read_header(path: Path) -> tuple[int, int]:
    """The indices in the header of a file: of its first record, and after the last record before it.

    Raises:
        Damage: the file does not begin with a valid header.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        found = file.read(HEADER.size)
    if len(found) < HEADER.size:
        raise Damage("the file ends within its header")
    magic, first, previous_end, _ = HEADER.unpack(found)
    if magic != MAGIC:
        raise Damage(f"expected {MAGIC!r} at its beginning, found {magic!r}")
    if found != header(first, previous_end):
        raise Damage("wrong checksum of its header")
    return first, previous_end


def crc_of(record: bytes) -> int:
    """The checksum of a record."""
    return zlib.crc32(record, len(record))
