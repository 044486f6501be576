"""Split a batch so that each part holds at most one packet of a stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def rounds(streams: Sequence[str]) -> list[list[int]]:
    """Indices into `streams`: the first item of every stream, then the second of every stream, and so on.

    An operator whose work on a frame depends on the frame before can process a round of all streams at once.
    """
    found: list[list[int]] = []
    seen: Counter[str] = Counter()
    for index, stream in enumerate(streams):
        if seen[stream] == len(found):
            found.append([])
        found[seen[stream]].append(index)
        seen[stream] += 1
    return found
