"""A spool: messages that wait on disk until they have arrived elsewhere; in order, bounded, across a kill -9.

Every append is written to the operating system before it returns, so a killed process loses nothing. What a
killed machine loses, `fsync` decides: `never`, what the kernel had not yet written, half a minute as a rule;
`interval`, a second; `always`, nothing. What cannot be written (disk full, folder read-only) waits in memory,
bounded too, and is written as soon as that works again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Literal

from operators.spool.segments import SpoolFiles, lock, sync_and_close, sync_folder

Fsync = Literal["never", "interval", "always"]
MEMORY_BYTES = 32 << 20
SYNC_S = 1.0
RETRY_S = 2.0  # how often to try a disk that has failed

log = logging.getLogger("posestream.spool")


class Spool:
    """Messages between one writer and one reader, each in a thread of its own, as a rule.

    `root` holds a folder for each process that uses it at once. Folders of processes that are dead become
    ours: what they have left comes before our own messages.

    `count` is told of `spool_dropped` (messages, the cap was reached), `memory_dropped` (messages, disk
    unusable and memory full), `spool_damaged` (messages), `spool_damaged_segments`, `spool_failed` (how often
    the disk became unusable), `spool_adopted` (messages of dead processes).
    """

    def __init__(
        self,
        root: Path,
        cap_bytes: int,
        *,
        fsync: Fsync = "never",
        count: Callable[[str, int], None] = lambda event, n: None,
        memory_bytes: int = MEMORY_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.root, self._cap, self._fsync, self._count = root, cap_bytes, fsync, count
        self._clock = clock
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._files: SpoolFiles | None = None
        self._memory: deque[tuple[int, bytes]] = deque()  # behind all that is on disk
        self._memory_bytes, self._memory_cap = 0, memory_bytes
        self._next = 0  # index of the next message
        self._read_end = 0
        self._acknowledged = 0  # index behind what has arrived
        self._failed = False  # the disk, when last tried
        self._retry_at = 0.0
        self._overflowing = False
        self._to_disk()
        self._closed = threading.Event()
        self._syncer = threading.Thread(target=self._sync, name="spool-sync", daemon=True)
        if fsync == "interval":
            self._syncer.start()

    @property
    def folder(self) -> Path | None:
        """Where messages are on disk; None as long as there is no such place."""
        return self._files.folder if self._files else None

    @property
    def on_disk(self) -> bool:
        """Whether messages are written to disk, and not kept in memory for want of one."""
        return not self._failed

    @property
    def waiting(self) -> int:
        """Messages that were appended, here or by a dead process, and neither acknowledged nor dropped."""
        with self._lock:
            kept = self._files.first if self._files else None
            if kept is None:
                kept = self._memory[0][0] if self._memory else self._acknowledged
            return self._next - max(kept, self._acknowledged)

    @property
    def read_end(self) -> int:
        """The index below which every message has been read, or is lost and counted."""
        return self._read_end

    @property
    def drained(self) -> bool:
        """Whether there is nothing to read."""
        return self._read_end == self._next

    @property
    def size_bytes(self) -> int:
        """What is on disk and in memory, in bytes."""
        return (self._files.bytes if self._files else 0) + self._memory_bytes

    # Writing

    def append(self, messages: Sequence[bytes]) -> int:
        """Keep messages (none of them empty); the index of the last. Never raises for want of space."""
        with self._lock:
            first = self._next
            self._next += len(messages)
            if self._memory or not self._written(messages, first):
                self._memory.extend(enumerate(messages, first))
                self._memory_bytes += sum(map(len, messages))
                self._shed()
                if self._clock() >= self._retry_at:
                    self._to_disk()
            self._arrived.notify()
            return self._next - 1

    def _written(self, messages: Sequence[bytes], first: int) -> bool:
        if self._files is None or (self._failed and self._clock() < self._retry_at):
            return False
        try:
            self._files.append(messages, first)
        except OSError as error:
            self._fail(error)
            return False
        self._recover()
        return True

    def _to_disk(self) -> None:
        """Move what waits in memory to the disk, if it takes it."""
        try:
            if self._files is not None and not self._files.folder.is_dir():  # somebody has tidied up
                self._files.close()
                self._files = None
            if self._files is None:
                self._files = self._open()
            while self._memory:
                index, message = self._memory[0]
                self._files.append([message], index)
                self._memory.popleft()
                self._memory_bytes -= len(message)
        except OSError as error:
            self._fail(error)
        else:
            self._recover()

    def _fail(self, error: OSError) -> None:
        self._retry_at = self._clock() + RETRY_S
        if self._failed:
            return
        self._failed = True
        self._count("spool_failed", 1)
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        log.error(
            "cannot write the spool in %s: %s; messages wait in memory, at most %d MB, and are lost if this "
            "process dies; free some space or choose another `spool_dir`",
            self.root, reason, self._memory_cap >> 20,
        )  # fmt: skip

    def _recover(self) -> None:
        if self._failed:
            self._failed = self._overflowing = False
            log.warning("the spool in %s can be written again", self.root)

    def _shed(self) -> None:
        """Drop the oldest messages in memory while there are too many."""
        dropped = 0
        while self._memory_bytes > self._memory_cap and len(self._memory) > 1:
            self._memory_bytes -= len(self._memory.popleft()[1])
            dropped += 1
        if dropped:
            self._count("memory_dropped", dropped)
            if not self._overflowing:
                self._overflowing = True
                log.error("no disk for the spool and its memory is full: the oldest messages are dropped")

    # Reading

    def read(self, max_bytes: int, wait_s: float = 0.0) -> list[tuple[int, bytes]]:
        """The next messages with their indices, about `max_bytes` of them; waits for the first so long."""
        with self._lock:
            found = self._read(max_bytes)
            if not found and wait_s > 0:
                self._arrived.wait(wait_s)
                found = self._read(max_bytes)
            return found

    def _read(self, max_bytes: int) -> list[tuple[int, bytes]]:
        found = self._files.read(max_bytes) if self._files else []
        size = sum(len(message) for _, message in found)
        # A message that has left memory is the reader's to keep: it is not written to disk later.
        while self._memory and size < max_bytes and (not self._files or self._files.drained):
            found.append(self._memory.popleft())
            size += len(found[-1][1])
            self._memory_bytes -= len(found[-1][1])
        self._read_end = found[-1][0] + 1 if found else self._next
        return found

    def wake(self) -> None:
        """End a reader's wait."""
        with self._lock:
            self._arrived.notify_all()

    def acknowledge(self, index: int) -> None:
        """The message of this index, and all before it, have arrived."""
        with self._lock:
            self._acknowledged = max(self._acknowledged, index + 1)
            if self._files:
                self._files.acknowledge(index + 1)

    def _sync(self) -> None:
        """Each second, put on the disk itself what was written; never while holding the writer up."""
        while not self._closed.wait(SYNC_S):
            with self._lock:
                files = self._files.take_unsynced() if self._files else []
                folder = self.folder
            try:
                for file in files:
                    sync_and_close(file)
                if files and folder:
                    sync_folder(folder)
            except OSError as error:
                with self._lock:
                    self._fail(error)

    def close(self) -> None:
        """Leave what was not acknowledged to the next process; what waits in memory is lost, and counted."""
        self._closed.set()
        if self._syncer.is_alive():
            self._syncer.join()
        with self._lock:
            if self._memory:
                self._to_disk()
            if self._memory:
                self._count("memory_dropped", len(self._memory))
                log.error("%d messages in memory are lost: the spool cannot be written", len(self._memory))
                self._memory.clear()
            if self._files:
                self._files.close()
                self._files = None

    # Folders

    def _open(self) -> SpoolFiles:
        """Our folder; the first that we have begins with what dead processes have left.

        Raises:
            OSError: none can be made or read.
        """
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._next:  # our own messages have their numbers already; the next process adopts
            return self._of(*claim_new(self.root))
        (folder, held), *dead = claim(self.root)
        files = self._of(folder, held)
        for folder, held in dead:
            _move(self._of(folder, held), files)
        self._next, self._acknowledged = files.end, files.acknowledged
        if adopted := files.end - files.acknowledged:
            self._count("spool_adopted", adopted)
            log.warning("%d messages that an earlier run has left in %s are sent", adopted, self.root)
        return files

    def _of(self, folder: Path, held: int) -> SpoolFiles:
        try:
            return SpoolFiles(folder, held, self._cap, self._fsync, self._count)
        except OSError:
            os.close(held)
            raise


def _move(source: SpoolFiles, target: SpoolFiles) -> None:
    """Append all that is in `source`; what does not fit stays there for the next process."""
    try:
        while found := source.read(1 << 20):
            target.append([message for _, message in found], target.end)
            source.acknowledge(found[-1][0] + 1)
    except OSError as error:
        log.warning("messages stay in %s for the next run: %s", source.folder, error)
    finally:
        source.close()


def claim(root: Path) -> list[tuple[Path, int]]:
    """The folders in `root` that no living process uses, with their locks; a new one if there is none.

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
        if (held := lock(folder)) is not None:  # else somebody has taken it for a dead one's
            return folder, held
    raise AssertionError
