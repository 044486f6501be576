"""The folders below a spool's root: each process locks one, and takes over those of dead processes."""

from __future__ import annotations

import fcntl
import os
from itertools import count
from pathlib import Path


def claim(root: Path) -> list[tuple[Path, int]]:
    """All folders in `root` that no living process uses, with their locks; a new one if there is none.

    Raises:
        OSError: `root` cannot be written.
    """
    folders = sorted((path for path in root.iterdir() if path.name.isdigit()), key=lambda p: int(p.name))
    claimed = [(folder, held) for folder in folders if (held := lock(folder)) is not None]
    return claimed or [claim_new(root)]


def claim_new(root: Path) -> tuple[Path, int]:
    """A new folder in `root`, with its lock.

    Raises:
        OSError: `root` cannot be written.
    """
    for number in count():
        folder = root / str(number)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        if (held := lock(folder)) is not None:  # None: another process has just claimed the new folder
            return folder, held
    raise AssertionError


def lock(folder: Path) -> int | None:
    """Lock a folder; None if another process holds the lock.

    Returns a file descriptor. The lock is released when it is closed, or when the process dies.

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


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk.

    Raises:
        OSError: the disk reports an error.
    """
    sync_and_close(os.open(folder, os.O_RDONLY | os.O_CLOEXEC))


def sync_and_close(file: int) -> None:
    """Force a file to the disk, then close it.

    Raises:
        OSError: the disk reports an error.
    """
    try:
        os.fsync(file)
    finally:
        os.close(file)
