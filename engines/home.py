"""The folder for everything kept on this machine: weights, clips, exports, plans, users' own contracts."""

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
    """The folder: POSESTREAM_HOME, else the user's cache folder."""
    return Path(os.environ.get(HOME) or user_cache_dir("posestream", appauthor=False)).expanduser()


@contextlib.contextmanager
def locked(lock_file: Path, reason: str, log: logging.Logger) -> Iterator[None]:
    """Hold a lock against other processes and threads; if it is taken, log "`reason`; waiting" and wait."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("%s; waiting", reason)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that other processes see either all of it or nothing; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave a file of the right size but empty
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
