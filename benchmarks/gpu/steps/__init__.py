"""What first.py runs: each function is a part, and yields rows of figures or raises what is wrong.

Each takes a `Place`. On the CPU, for a dry run, the same functions run as far as they can.
"""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """Where the parts run, and on what."""

    device: str  # cuda:0; for a dry run cpu
    clip: str  # 1920x1080, some seconds
    long_clip: str  # the same for some minutes

    @property
    def dry(self) -> bool:
        """Whether there is no GPU."""
        return self.device == "cpu"
