"""Ctrl-C and SIGTERM end a run: the first one in order, the second one at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType
from typing import Protocol

INTERRUPTION = "interrupted; what was read before that is finished and written"


class Stoppable(Protocol):
    """A run, or a measurement."""

    def stop(self) -> None:
        """Begin nothing new, finish what has begun."""

    def abort(self) -> None:
        """Finish nothing either."""


@contextmanager
def stop_on_signals(running: Stoppable) -> Iterator[list[int]]:
    """Inside this context the first Ctrl-C or SIGTERM stops the run and the second one aborts it.

    Yields:
        The numbers of the signals that have come, in order; it grows as they come.
    """
    received: SimpleQueue[int | None] = SimpleQueue()
    obeyed: list[int] = []

    # A thread obeys, not the handler: the handler interrupts the main thread, which may hold a lock that
    # `stop` needs.
    def obey() -> None:
        for stop in (running.stop, running.abort):
            if (number := received.get()) is None:
                return
            obeyed.append(number)
            stop()

    def handle(signal_number: int, frame: FrameType | None) -> None:
        received.put(signal_number)

    thread = threading.Thread(target=obey, name="signals", daemon=True)
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        thread.start()
        yield obeyed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        received.put(None)
        thread.join()
