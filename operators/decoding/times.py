"""Times in nanoseconds."""

from __future__ import annotations

from fractions import Fraction

SECOND_NS = 10**9


def to_ns(pts: int, time_base: Fraction) -> int:
    """A time in units of `time_base` seconds, in ns, rounded."""
    return (pts * time_base.numerator * SECOND_NS + time_base.denominator // 2) // time_base.denominator
