"""The times of a camera's frames: its own clock made to go on for ever, and the moment of capture."""

from __future__ import annotations

from typing import NamedTuple

SECOND_NS = 10**9
JUMP_NS = SECOND_NS  # a step of the camera's clock that is so wrong is a jump
TRUST_NS = (
    5 * SECOND_NS
)  # a camera that claims to have taken a picture so long ago, or so far ahead, is wrong


class Times(NamedTuple):
    """When a frame was."""

    pts_ns: int  # on the stream's clock; always later than the one before
    captured_ns: int  # UNIX time
    jumped_ns: int | None  # the camera's clock has jumped by so much
    trusted: bool  # the camera's own time of capture was used, or it gave none


class StreamClock:
    """Turns a camera's times into a clock that neither stops, jumps nor goes back.

    Where the camera's clock jumps, or begins anew after an outage, the stream's clock goes on by the time
    that has passed here, and follows the camera's from then on.
    """

    def __init__(self) -> None:
        self._offset_ns: int | None = None  # stream's clock - camera's clock; None until they are compared
        self._last_ns = -1
        self._last_arrived_ns: int | None = None

    def restart(self) -> None:
        """What comes next is of a new connection, whose clock has nothing to do with the last one's."""
        self._offset_ns = None

    def times(self, pts_ns: int | None, arrived_ns: int, captured_ns: int | None) -> Times:
        """The times of the next frame; `pts_ns` by the camera's clock, None where that does not tell."""
        first = self._last_arrived_ns is None
        passed_ns = max(arrived_ns - (self._last_arrived_ns or arrived_ns), 0)
        given_ns, jumped_ns = max(self._last_ns, 0) + passed_ns, None
        if pts_ns is not None:
            if self._offset_ns is None:
                self._offset_ns = 0 if first else given_ns - pts_ns
            step_ns = pts_ns + self._offset_ns - self._last_ns
            # A frame that comes late is no jump: the network has held it up.
            if not first and not -JUMP_NS <= step_ns <= passed_ns + JUMP_NS:
                jumped_ns = step_ns - passed_ns
                self._offset_ns = given_ns - pts_ns
            given_ns = pts_ns + self._offset_ns
        self._last_ns = given_ns if first else max(given_ns, self._last_ns + 1)
        self._last_arrived_ns = arrived_ns
        trusted = captured_ns is None or abs(captured_ns - arrived_ns) <= TRUST_NS
        captured_ns = captured_ns if captured_ns is not None and trusted else arrived_ns
        return Times(self._last_ns, captured_ns, jumped_ns, trusted)
