"""The times of a camera's frames: a clock that never stops or jumps, and the time of capture."""

from __future__ import annotations

from typing import NamedTuple

from operators.decoding.times import SECOND_NS

JUMP_NS = SECOND_NS  # a step of the camera's clock that is wrong by more is a jump
TRUST_NS = 5 * SECOND_NS  # a time of capture that is further from the time of arrival is wrong


class Times(NamedTuple):
    """The times of a frame."""

    pts_ns: int  # on the stream's clock; always later than the previous frame's
    captured_ns: int  # UNIX time
    jumped_ns: int | None  # by how much the camera's clock has jumped before it
    trusted: bool  # False if the camera gave a time of capture that is wrong


class StreamClock:
    """Turns a camera's times into those of the stream's clock, which never stops, jumps or goes back.

    When the camera's clock jumps, or starts anew after an outage, the stream's clock advances by the time
    that has passed on this machine, and then follows the camera's clock again.
    """

    def __init__(self) -> None:
        self._offset_ns: int | None = None  # stream's clock - camera's clock; None: not known yet
        self._last_ns = -1
        self._last_arrived_ns: int | None = None

    def restart(self) -> None:
        """A new connection begins; its clock may start anywhere."""
        self._offset_ns = None

    def times(self, pts_ns: int | None, arrived_ns: int, captured_ns: int | None) -> Times:
        """The times of the next frame.

        Args:
            pts_ns: its time by the camera's clock, None if the camera gives none.
            arrived_ns: UNIX time of arrival, by this machine's clock.
            captured_ns: UNIX time of capture, by the camera's clock, None if the camera gives none.
        """
        first = self._last_arrived_ns is None
        passed_ns = max(arrived_ns - (self._last_arrived_ns or arrived_ns), 0)
        given_ns, jumped_ns = max(self._last_ns, 0) + passed_ns, None
        if pts_ns is not None:
            if self._offset_ns is None:
                self._offset_ns = 0 if first else given_ns - pts_ns
            step_ns = pts_ns + self._offset_ns - self._last_ns
            # A step shorter than the time that passed is not a jump: the network has delayed the frame.
            if not first and not -JUMP_NS <= step_ns <= passed_ns + JUMP_NS:
                jumped_ns = step_ns - passed_ns
                self._offset_ns = given_ns - pts_ns
            given_ns = pts_ns + self._offset_ns
        self._last_ns = given_ns if first else max(given_ns, self._last_ns + 1)
        self._last_arrived_ns = arrived_ns
        trusted = captured_ns is None or abs(captured_ns - arrived_ns) <= TRUST_NS
        captured_ns = captured_ns if captured_ns is not None and trusted else arrived_ns
        return Times(self._last_ns, captured_ns, jumped_ns, trusted)
