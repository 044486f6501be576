"""Where a sink's files lie, and what is said when one cannot be written."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import Field

from pipeline.errors import SinkError

Folder = Annotated[str, Field(description="folder of the files, one a stream; it is made if need be")]


class Closable(Protocol):
    """A file of a sink."""

    def close(self) -> None:
        """Finish it and give it back."""
        ...


OneFile = TypeVar("OneFile", bound=Closable)

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


class StreamFiles:
    """Names the files of one sink: `<stream>.<suffix>`, one that an earlier run left there is replaced.

    A stream that comes again in the same run, after its end, gets `<stream>.2.<suffix>`, then `.3` …
    """

    def __init__(self, folder: str, suffix: str):
        """Make the folder.

        Raises:
            SinkError: it cannot be made, or nothing can be written there.
        """
        self._folder = Path(folder).expanduser()
        self._suffix = suffix
        self._count: Counter[str] = Counter()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Permission bits do not tell: root passes them, read-only mounts and quotas do not show in them.
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as error:
            raise sink_error(self._folder, error) from None

    def next(self, stream: str) -> Path:
        """The path of the stream's next file."""
        self._count[stream] += 1
        n = self._count[stream]
        return self._folder / f"{safe_name(stream)}{f'.{n}' if n > 1 else ''}.{self._suffix}"


def safe_name(stream: str) -> str:
    """A file name for a stream: the stream itself where it can be one, else made so, with a hash of it.

    Two streams never share a name, on whichever worker they are. A trailing `.2` counts as unsafe, since it
    marks the second file of a stream.
    """
    name = re.sub(r"[^\w.@=+-]", "_", stream)
    while len(name.encode()) > 160:
        name = name[:-1]
    if name == stream and name and not name.startswith((".", "-")) and not re.search(r"\.\d+$", name):
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
