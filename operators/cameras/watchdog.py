"""Says when a connection is dead. Time-outs of libraries cannot be trusted: open sockets may stay silent."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from operators.cameras.errors import LinkError

FIRST_PICTURE_S = 15.0  # a key frame may be that far away


@dataclass
class Watchdog:
    """Watches one connection; times are those of `time.monotonic`."""

    open_s: float  # it must be open after so long
    stall_s: float  # and give a picture at least so often
    started_s: float = field(default_factory=time.monotonic)
    heard_s: float | None = None  # last data; it is open, then
    seen_s: float | None = None  # last picture

    def left_s(self, now_s: float) -> float:
        """How long it may go on without anything new.

        Raises:
            LinkError: no longer; the text says what is missing.
        """
        if self.heard_s is None:
            limit_s, since_s, missing = self.open_s, self.started_s, "no answer"
        elif self.seen_s is not None:
            limit_s, since_s, missing = self.stall_s, self.seen_s, "no picture"
        else:
            limit_s, since_s, missing = self.stall_s, self.heard_s, "no data"
            first_s = max(FIRST_PICTURE_S, self.stall_s)
            if self.started_s + first_s < self.heard_s + self.stall_s:
                limit_s, since_s, missing = first_s, self.started_s, "data, but no picture"
        left_s = since_s + limit_s - now_s
        if left_s <= 0:
            raise LinkError(f"{missing} for {limit_s:g} s")
        return left_s
