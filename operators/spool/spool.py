"""A spool: messages wait on disk, in order, until they are acknowledged; bounded, and safe against kill -9.

`append` hands messages to the operating system before it returns, so a killed process loses nothing. How much
a power cut loses depends on `fsync`: `never`, what the kernel has not yet written, usually half a minute;
`interval`, a second; `always`, nothing. If the disk cannot be written (it is full, or read-only), messages
wait in memory, which is bounded too, and go to the disk as soon as that works again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from operators.spool.folders import claim, claim_new, sync_and_close, sync_folder
from operators.spool.segments import Segments

Fsync = Literal["never", "interval", "always"]
MEMORY_BYTES = 32 << 20
SYNC_S = 1.0
RETRY_S = 2.0  # how often to try a disk that has failed

log = logging.getLogger("posestream.spool")


class Spool:
    """Messages from one writer to one reader, which may be two threads.

    Each living process has its own folder below `root`. A spool takes over the folders of dead
    processes: their messages come before our own.

    Calls `count(name, n)` with `spool_dropped` (messages dropped at the cap), `memory_dropped` (messages lost
    because the disk was unusable and the memory full), `spool_damaged` (unreadable messages),
    `spool_damaged_segments`, `spool_torn` (segments with an incomplete last message), `spool_failed` (times
    that the disk became unusable) and `spool_adopted` (messages of dead processes).
    """

    def __init__(
        self,
        root: Path,
        cap_bytes: int,
        *,
        fsync: Fsync = "never",
        count: Callable[[str, int], None] = lambda name, n: None,
        memory_bytes: int = MEMORY_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.root, self._cap, self._fsync, self._count = root, cap_bytes, fsync, count
        self._clock = clock
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._disk: Segments | None = None
        self._memory: deque[tuple[int, bytes]] = deque()  # with indices; newer than all on disk
        self._memory_bytes, self._memory_cap = 0, memory_bytes
        self._next = 0  # index of the next message
        self._read_end = 0
        self._acknowledged = 0  # index after the last acknowledged message
        self._failed = False  # whether the last write to the disk failed
        self._retry_at = 0.0
        self._overflowing = False
        self._move_to_disk()
        self._closed = threading.Event()
        self._syncer = threading.Thread(target=self._sync, name="spool-sync", daemon=True)
        if fsync == "interval":
            self._syncer.start()

    @property
    def folder(self) -> Path | None:
        """The folder on disk; None while none can be created."""
        return self._disk.folder if self._disk else None

    @property
    def waiting(self) -> int:
        """How many messages are neither acknowledged nor dropped, those of dead processes included."""
        with self._lock:
            kept = self._disk.first if self._disk else None
            if kept is None:
                kept = self._memory[0][0] if self._memory else self._acknowledged
            return self._next - max(kept, self._acknowledged)

    @property
    def read_end(self) -> int:
        """All messages below this index have been read, or are lost and counted."""
        return self._read_end

    @property
    def drained(self) -> bool:
        """Whether all messages have been read."""
        return self._read_end == self._next

    # Writing

    def append(self, messages: Sequence[bytes]) -> int:
        """Keep messages, none of them empty; returns the index of the last. A full disk is no error here."""
        with self._lock:
            first = self._next
            self._next += len(messages)
            if self._memory or not self._write(messages, first):
                self._memory.extend(enumerate(messages, first))
                self._memory_bytes += sum(map(len, messages))
                self._limit_memory()
                if self._clock() >= self._retry_at:
                    self._move_to_disk()
            self._arrived.notify()
            return self._next - 1

    def _write(self, messages: Sequence[bytes], first: int) -> bool:
        if self._disk is None or (self._failed and self._clock() < self._retry_at):
            return False
        try:
            self._disk.append(messages, first)
        except OSError as error:
            self._fail(error)
            return False
        self._recover()
        return True

    def _move_to_disk(self) -> None:
        """Write the messages in memory to the disk, as far as that works."""
        try:
            if self._disk is not None and not self._disk.folder.is_dir():  # a user has deleted it
                self._disk.close()
                self._disk = None
            if self._disk is None:
                self._disk = self._open_folder()
            while self._memory:
                index, message = self._memory[0]
                self._disk.append([message], index)
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
            "process dies; free some space, or set another `spool_dir`",
            self.root, reason, self._memory_cap >> 20,
        )  # fmt: skip

    def _recover(self) -> None:
        if self._failed:
            self._failed = self._overflowing = False
            log.warning("the spool in %s can be written again", self.root)

    def _limit_memory(self) -> None:
        """Drop the oldest messages in memory until they fit under its cap."""
        dropped = 0
        while self._memory_bytes > self._memory_cap and len(self._memory) > 1:
            self._memory_bytes -= len(self._memory.popleft()[1])
            dropped += 1
        if dropped:
            self._count("memory_dropped", dropped)
            if not self._overflowing:
                self._overflowing = True
                log.error(
                    "the spool cannot be written and its memory is full: the oldest messages are dropped"
                )

    # Reading

    def read(self, max_bytes: int, wait_s: float = 0.0) -> list[tuple[int, bytes]]:
        """The next messages with their indices, about `max_bytes` in all; waits `wait_s` for the first."""
        with self._lock:
            found = self._read(max_bytes)
            if not found and wait_s > 0:
                self._arrived.wait(wait_s)
                found = self._read(max_bytes)
            return found

    def _read(self, max_bytes: int) -> list[tuple[int, bytes]]:
        found = self._disk.read(max_bytes) if self._disk else []
        size = sum(len(message) for _, message in found)
        # A message that is read from memory never goes to the disk: the reader has the only copy.
        while self._memory and size < max_bytes and (not self._disk or self._disk.drained):
            found.append(self._memory.popleft())
            size += len(found[-1][1])
            self._memory_bytes -= len(found[-1][1])
        self._read_end = found[-1][0] + 1 if found else self._next
        return found

    def wake(self) -> None:
        """End the wait of a reader."""
        with self._lock:
            self._arrived.notify_all()

    def acknowledge(self, index: int) -> None:
        """Note that the message of this index, and all before it, have arrived."""
        with self._lock:
            self._acknowledged = max(self._acknowledged, index + 1)
            if self._disk:
                self._disk.acknowledge(index + 1)

    def _sync(self) -> None:
        """Each second, force written messages to disk, outside the lock, so that `append` need not wait."""
        while not self._closed.wait(SYNC_S):
            with self._lock:
                files = self._disk.take_unsynced() if self._disk else []
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
        """Leave unacknowledged messages to the next process; what only memory holds is lost and counted."""
        self._closed.set()
        if self._syncer.is_alive():
            self._syncer.join()
        with self._lock:
            if self._memory:
                self._move_to_disk()
            if self._memory:
                self._count("memory_dropped", len(self._memory))
                log.error("the spool cannot be written: %d messages in memory are lost", len(self._memory))
                self._memory.clear()
            if self._disk:
                self._disk.close()
                self._disk = None

    # Folders

    def _open_folder(self) -> Segments:
        """Our folder; the first one begins with the messages of dead processes.

        Raises:
            OSError: no folder can be created or read.
        """
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._next:  # our messages have their indices already: leave adopting to the next process
            return self._load(*claim_new(self.root))
        (folder, held), *dead = claim(self.root)
        ours = self._load(folder, held)
        for folder, held in dead:
            _move(self._load(folder, held), ours)
        self._next, self._acknowledged = ours.end, ours.acknowledged
        if adopted := ours.end - ours.acknowledged:
            self._count("spool_adopted", adopted)
            log.warning("sending %d messages that an earlier run left in %s", adopted, self.root)
        return ours

    def _load(self, folder: Path, held: int) -> Segments:
        try:
            return Segments(folder, held, self._cap, self._fsync, self._count)
        except OSError:
            os.close(held)
            raise


def _move(source: Segments, target: Segments) -> None:
    """Move all records to `target`; those that cannot be written stay in `source` for the next process."""
    try:
        while found := source.read(1 << 20):
            target.append([message for _, message in found], target.end)
            source.acknowledge(found[-1][0] + 1)
    except OSError as error:
        log.warning("messages stay in %s for the next run: %s", source.folder, error)
    finally:
        source.close()
