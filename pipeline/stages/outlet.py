"""The outlet of a stage whose workers share one inbox: it restores the order of their results."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Outlet(Generic[T]):
    """Sends results on in the order of their tickets, whichever worker finishes first.

    At most `ahead` tickets may wait for an earlier one, so that memory stays bounded.
    """

    def __init__(self, send: Callable[[int, T], None], ahead: int):
        self._send = send
        self._ahead = ahead
        self._turn = threading.Condition()
        self._next = 0
        self._waiting: dict[int, T] = {}
        self._broken = False

    def send(self, ticket: int, results: T) -> None:
        """Send the results of batch `ticket` once those of all earlier batches are sent."""
        with self._turn:
            while ticket > self._next + self._ahead and not self._broken:
                self._turn.wait()
            self._waiting[ticket] = results
            while (ready := self._waiting.pop(self._next, None)) is not None:
                self._send(self._next, ready)
                self._next += 1
            self._turn.notify_all()

    def give_up(self) -> None:
        """A worker has died and its tickets will never come: stop waiting for them."""
        with self._turn:
            self._broken = True
            self._turn.notify_all()
