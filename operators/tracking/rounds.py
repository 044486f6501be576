"""Splits a batch of several streams into rounds that can be processed one stream beside the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def rounds(streams: Sequence[str]) -> list[list[int]]:
    """Split a batch into rounds that hold at most one item of each stream, in order.

    Args:
        streams: the stream of each item.

    Returns:
        The indices of the items in each round: the first of every stream, then the second, and so on.
    """
    split: list[list[int]] = []
    seen: Counter[str] = Counter()
    for index, stream in enumerate(streams):
        if seen[stream] == len(split):
            split.append([])
        split[seen[stream]].append(index)
        seen[stream] += 1
    return split
