"""What all sinks that write files share: names, rotation, open files by stream, and errors."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar

from pydantic import Field

from pipeline.errors import SinkError

Folder = Annotated[str, Field(description="folder of the files, one for each stream; created if missing")]
RotateMb = Annotated[
    float | None, Field(gt=0, description="MB after which a new file begins, named by its time")
]
RotateMin = Annotated[
    float | None, Field(gt=0, description="minutes after which a new file begins, named by its time")
]


class Closable(Protocol):
    """An open file of a sink."""

    def close(self) -> None:
        """Finish the file and close it."""
        ...


OneFile = TypeVar("OneFile", bound=Closable)

STAMP = "%Y%m%dT%H%M%SZ"
TAKEN = re.compile(r"\.(\d+|\d{8}T\d{6}Z)$")

NEXT_STEPS = {
    errno.ENOSPC: "free some space or choose another `dir`",
    errno.EDQUOT: "free some of your quota or choose another `dir`",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) or choose a file system without it",
    errno.EACCES: "make it writable or choose another `dir`",
    errno.EPERM: "make it writable or choose another `dir`",
    errno.EROFS: "choose a `dir` that is not read-only",
    errno.EEXIST: "expected a folder; remove the file or choose another `dir`",
    errno.ENOTDIR: "expected a folder; remove the file or choose another `dir`",
}


class Rotation(NamedTuple):
    """When a file is full, so that the next one begins; by default never."""

    mb: float | None = None
    minutes: float | None = None

    @property
    def wanted(self) -> bool:
        """Whether files rotate at all."""
        return self != Rotation()

    def due(self, size: int, first_ns: int, now_ns: int) -> bool:
        """Whether a file of `size` bytes that began at `first_ns` is too full for a frame of `now_ns`."""
        if self.mb is not None and size >= self.mb * 1e6:
            return True
        return self.minutes is not None and now_ns - first_ns >= self.minutes * 60e9


class StreamFiles:
    """Names the files of one sink: `<stream>.<suffix>`, or `<stream>.<time>.<suffix>` if files rotate.

    If a stream begins again after its end in the same run, its next file is `<stream>.2.<suffix>`, then `.3`,
    … Files of an earlier run are replaced, but never those of a live run or with a time in their name: there
    the next free number is used.
    """

    def __init__(self, folder: str, suffix: str, *, live: bool = False):
        """Make the folder.

        Raises:
            SinkError: it cannot be made or written to.
        """
        self._folder = Path(folder).expanduser()
        self._suffix, self._live = suffix, live
        self._count: Counter[str] = Counter()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Try it: permission bits show neither what root may do, nor read-only mounts, nor quotas.
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as error:
            raise sink_error(self._folder, error) from None

    def next(self, stream: str, first_ns: int | None = None) -> Path:
        """The path of the stream's next file; if files rotate, `first_ns` is the UNIX time it begins."""
        name = safe_name(stream)
        if first_ns is not None:
            return self._free(f"{name}.{datetime.fromtimestamp(first_ns // 10**9, UTC):{STAMP}}", 1)
        self._count[stream] += 1
        if self._live:
            return self._free(name, self._count[stream])
        return self._path(name, self._count[stream])

    def _free(self, name: str, n: int) -> Path:
        return next(path for i in count(n) if not (path := self._path(name, i)).exists())

    def _path(self, name: str, n: int) -> Path:
        return self._folder / f"{name}{f'.{n}' if n > 1 else ''}.{self._suffix}"


def safe_name(stream: str) -> str:
    """A file name for a stream: its own name if that is safe, else a changed one with a hash of the name.

    Two streams never get the same file name, not even on two workers. A name that ends in `.2` or in a time
    counts as unsafe, since these endings mark further files of a stream.
    """
    name = re.sub(r"[^\w.@=+-]", "_", stream)
    while len(name.encode()) > 160:
        name = name[:-1]
    if name == stream and name and not name.startswith((".", "-")) and not TAKEN.search(name):
        return name
    return f"{name.lstrip('.-') or 'stream'}-{hashlib.sha256(stream.encode()).hexdigest()[:8]}"


def sink_error(path: Path, error: OSError, frames: int | None = None) -> SinkError:
    """The error for a `path` that cannot be written; `frames` says how many are in it and stay valid."""
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    kept = "" if frames is None else f" after {frames} frames, which are kept"
    next_step = NEXT_STEPS.get(error.errno or 0, "choose another `dir`")
    return SinkError(f"cannot write {path}: {reason}{kept}; {next_step}")


class OpenFiles(dict[str, OneFile]):
    """The open files of a sink by stream; `make` opens a file when its stream is first used."""

    def __init__(self, make: Callable[[str], OneFile]):
        super().__init__()
        self._make = make

    def __missing__(self, stream: str) -> OneFile:
        self[stream] = self._make(stream)
        return self[stream]

    def end(self, stream: str) -> None:
        """Close a stream's file; a stream without packets gets one now, so that each stream has a file."""
        file = self[stream]
        del self[stream]
        file.close()


def close_all(files: MutableMapping[str, Any]) -> None:
    """Close all files of a sink and forget them.

    Raises:
        SinkError: the first error of a file; all files are closed nevertheless.
    """
    first: SinkError | None = None
    while files:
        try:
            files.popitem()[1].close()
        except SinkError as error:
            first = first or error
    if first is not None:
        raise first


def create_file(path: Path) -> int:
    """Create a file, or empty it; returns its descriptor.

    Raises:
        OSError: it cannot be created.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)


def write_all(file: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset` of a file descriptor.

    Raises:
        OSError: the write failed; a part of the data may be in the file.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        offset += written
        view = view[written:]
