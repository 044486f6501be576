"""What a run in this process and one in several have in common: how one waits for it, and how it fails."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable

from pipeline.errors import PosestreamError
from pipeline.graph import Graph
from pipeline.measurement.stats import RunStats
from pipeline.operator import RunInfo


class Running(ABC):
    """A graph at work, or about to be."""

    def __init__(self, graph: Graph, info: RunInfo):
        self.graph, self.info = graph, info
        self.failure: PosestreamError | None = None
        self._lock = threading.Lock()

    @abstractmethod
    def start(self) -> None:
        """Open all operators, then start to read. A failure of theirs shows in `wait` and `finish`."""

    @abstractmethod
    def stop(self) -> None:
        """Read no more; what was read is finished and written."""

    @abstractmethod
    def abort(self) -> None:
        """Stop at once: what waits in the queues is thrown away, and counted."""

    @abstractmethod
    def stats(self) -> RunStats:
        """Take a snapshot of this moment, or of the end; `since` compares two of them."""

    @abstractmethod
    def _threads(self) -> Iterable[threading.Thread]:
        """Those that end with the run."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the run's end; False if it goes on behind the time-out."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads():
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0))
            if thread.is_alive():
                return False
        return True

    def finish(self) -> RunStats:
        """Wait for the end and give the summary.

        Raises:
            PosestreamError: the failure that ended the run; what was finished before is written.
        """
        self.wait()
        if self.failure:
            raise self.failure
        return self.stats()

    def _note_failure(self, error: PosestreamError) -> None:
        with self._lock:
            self.failure = self.failure or error
        self.stop()
