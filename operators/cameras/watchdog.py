"""Says when a connection is dead. Libraries' time-outs cannot be trusted: an open socket may stay silent."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from operators.cameras.errors import CameraError

FIRST_FRAME_S = 15.0  # the first key frame may come this late


@dataclass
class Watchdog:
    """Watches one connection; times are those of `time.monotonic`."""

    open_s: float  # it must be open after this time
    stall_s: float  # and must give a frame at least this often
    started_s: float = field(default_factory=time.monotonic)
    heard_s: float | None = None  # of opening, then of the last packet
    seen_s: float | None = None  # of the last frame

    def left_s(self, now_s: float) -> float:
        """How much longer the connection may be silent, more than 0.

        Raises:
            CameraError: it is dead; the text says what is missing.
        """
        if self.heard_s is None:
            limit_s, since_s, missing = self.open_s, self.started_s, "no answer"
        elif self.seen_s is not None:
            limit_s, since_s, missing = self.stall_s, self.seen_s, "no frame"
        else:
            limit_s, since_s, missing = self.stall_s, self.heard_s, "no data"
            first_s = max(FIRST_FRAME_S, self.stall_s)
            if self.started_s + first_s < self.heard_s + self.stall_s:
                limit_s, since_s, missing = first_s, self.started_s, "data, but no frame"
        left_s = since_s + limit_s - now_s
        if left_s <= 0:
            raise CameraError(f"{missing} for {limit_s:g} s")
        return left_s
