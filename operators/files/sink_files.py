"""Where a sink's files lie, and what is said when one cannot be written."""

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

Folder = Annotated[str, Field(description="folder of the files, one a stream; it is made if need be")]
RotateMb = Annotated[float | None, Field(gt=0, description="MB after which a new file begins, named by time")]
RotateMin = Annotated[
    float | None, Field(gt=0, description="minutes after which a new file begins, likewise")
]


class Closable(Protocol):
    """A file of a sink."""

    def close(self) -> None:
        """Finish it and give it back."""
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
    """When a file is full and the next one begins; never, unless told."""

    mb: float | None = None
    minutes: float | None = None

    @property
    def wanted(self) -> bool:
        """Whether files are ever full."""
        return self != Rotation()

    def due(self, size: int, first_ns: int, now_ns: int) -> bool:
        """Whether a file of so many bytes, with frames from `first_ns` on, is full for one of `now_ns`."""
        if self.mb is not None and size >= self.mb * 1e6:
            return True
        return self.minutes is not None and now_ns - first_ns >= self.minutes * 60e9


class StreamFiles:
    """Names the files of one sink: `<stream>.<suffix>`, or `<stream>.<time>.<suffix>` where files rotate.

    A stream that comes again in the same run, after its end, gets `<stream>.2.<suffix>`, then `.3` … The file
    of an earlier run is replaced; not so that of a camera (live), or one with a time in its name: there the
    next number is taken that is free.
    """

    def __init__(self, folder: str, suffix: str, *, live: bool = False):
        """Make the folder.

        Raises:
            SinkError: it cannot be made, or nothing can be written there.
        """
        self._folder = Path(folder).expanduser()
        self._suffix, self._live = suffix, live
        self._count: Counter[str] = Counter()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Permission bits do not tell: root passes them, read-only mounts and quotas do not show in them.
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as error:
            raise sink_error(self._folder, error) from None

    def next(self, stream: str, first_ns: int | None = None) -> Path:
        """The path of the stream's next file, which begins at UNIX time `first_ns` where files rotate."""
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
    """A file name for a stream: the stream itself where it can be one, else made so, with a hash of it.

    Two streams never share a name, on whichever worker they are. A trailing `.2` counts as unsafe, since it
    marks the second file of a stream, and so does a time.
    """
    name = re.sub(r"[^\w.@=+-]", "_", stream)
    while len(name.encode()) > 160:
        name = name[:-1]
    if name == stream and name and not name.startswith((".", "-")) and not TAKEN.search(name):
        return name
    return f"{name.lstrip('.-') or 'stream'}-{hashlib.sha256(stream.encode()).hexdigest()[:8]}"


def sink_error(path: Path, error: OSError, frames: int | None = None) -> SinkError:
    """The error of a sink whose `path` cannot be written; `frames` are in it and stay valid."""
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    kept = "" if frames is None else f" after {frames} frames, which are kept"
    next_step = NEXT_STEPS.get(error.errno or 0, "choose another `dir`")
    return SinkError(f"cannot write {path}: {reason}{kept}; {next_step}")


class OpenFiles(dict[str, OneFile]):
    """The open files of a sink by stream; `make` opens one when its stream is first asked for."""

    def __init__(self, make: Callable[[str], OneFile]):
        super().__init__()
        self._make = make

    def __missing__(self, stream: str) -> OneFile:
        self[stream] = self._make(stream)
        return self[stream]

    def end(self, stream: str) -> None:
        """Close a stream's file; one that got no packets is made, so that there is a valid one of each."""
        file = self[stream]
        del self[stream]
        file.close()


def close_all(files: MutableMapping[str, Any]) -> None:
    """Close all files of a sink and forget them.

    Raises:
        SinkError: the first that was raised, once all have had their turn.
    """
    first: SinkError | None = None
    while files:
        try:
            files.popitem()[1].close()
        except SinkError as error:
            first = first or error
    if first is not None:
        raise first


def write_all(file: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset` of a file descriptor.

    Raises:
        OSError: no more could be written; a part of it may have been.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        offset += written
        view = view[written:]
