"""What a run in this process and a run in several have in common: how to wait for it, and how it fails."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable

from pipeline.errors import PosestreamError, UnaccountedError
from pipeline.graph import Graph
from pipeline.measurement.faults import NAMED, name_some
from pipeline.measurement.run_stats import RunStats
from pipeline.operator import RunInfo


class Running(ABC):
    """A graph at work, or about to be."""

    def __init__(self, graph: Graph, info: RunInfo):
        self.graph, self.info = graph, info
        self.failure: PosestreamError | None = None  # the error that ended the run
        self._lock = threading.Lock()

    @abstractmethod
    def start(self) -> None:
        """Open all operators, then start to read. `wait` and `finish` show a failure."""

    @abstractmethod
    def stop(self) -> None:
        """Read no more; what was read is finished and written."""

    @abstractmethod
    def abort(self) -> None:
        """Stop at once: packets that wait in the queues are dropped and counted."""

    @abstractmethod
    def stats(self) -> RunStats:
        """Take a snapshot of this moment, or of the end; `since` compares two of them."""

    @abstractmethod
    def _threads(self) -> Iterable[threading.Thread]:
        """The threads that end with the run."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the run's end; False if it has not ended after `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads():
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0))
            if thread.is_alive():
                return False
        return True

    def finish(self) -> RunStats:
        """Wait for the end and give the last snapshot.

        Raises:
            PosestreamError: the failure that ended the run; what was finished before is written.
            UnaccountedError: a stage has not accounted for packets of files; everything given is written.
        """
        self.wait()
        if error := self.error():
            raise error
        return self.stats()

    def error(self) -> PosestreamError | None:
        """Why a run that has ended was no success; None if it was one."""
        if self.failure or self.info.live:
            return self.failure
        return _unaccounted(self.stats())

    def _note_failure(self, error: PosestreamError) -> None:
        with self._lock:
            self.failure = self.failure or error
        self.stop()


def _unaccounted(stats: RunStats) -> UnaccountedError | None:
    faults = stats.faults
    if not faults:
        return None
    remedies = "; ".join(dict.fromkeys(fault.remedy for fault in faults[:NAMED]))
    return UnaccountedError(f"packets are unaccounted for: {name_some(faults)}; {remedies}")
