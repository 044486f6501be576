"""The one folder for all that is kept on this machine: weights, clips, exports, one's own contracts."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_dir

HOME = "POSESTREAM_HOME"


def cache_home() -> Path:
    """The folder that holds all that is kept: POSESTREAM_HOME, else the user's cache folder."""
    return Path(os.environ.get(HOME) or user_cache_dir("posestream", appauthor=False)).expanduser()


@contextlib.contextmanager
def alone(lock_file: Path, waiting: str, log: logging.Logger) -> Iterator[None]:
    """Keep other processes and threads out meanwhile; whoever has to wait is told so by `waiting`."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("%s; waiting", waiting)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in such a way that others see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave a file of the right size without content
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
