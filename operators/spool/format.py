"""The bytes of a spool's segments.

A segment is a header (magic with version, index of its first record, index behind the last record of the
segment before it, CRC-32) and records, each with its length and a CRC-32 that starts from the length, so that
a run of zeros is no record. All numbers are little-endian.
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
    """Bytes that are no segment or no record."""


def records_in(data: bytes | memoryview) -> Iterator[tuple[bytes, int]]:
    """The whole records at the beginning of `data`, each with the bytes that it takes in the file.

    Raises:
        Damage: a whole record has another CRC, or the length of none.
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
    told = struct.pack("<8sQQ", MAGIC, first, previous_end)
    return told + struct.pack("<I", zlib.crc32(told))


def read_header(path: Path) -> tuple[int, int]:
    """What the header of a file says: index of the first record, index behind the last before it.

    Raises:
        Damage: it has none.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        found = file.read(HEADER.size)
    if len(found) < HEADER.size:
        raise Damage("it ends within its header")
    magic, first, previous_end, _ = HEADER.unpack(found)
    if magic != MAGIC:
        raise Damage(f"expected {MAGIC!r} at its beginning, found {magic!r}")
    if found != header(first, previous_end):
        raise Damage("wrong checksum of its header")
    return first, previous_end


def crc_of(record: bytes) -> int:
    """The checksum of a record."""
    return zlib.crc32(record, len(record))
