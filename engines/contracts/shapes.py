"""Shapes of tensors, compared and written out; a size of -1 can be any size."""

from __future__ import annotations

from collections.abc import Sequence


def shapes_agree(expected: Sequence[int], found: Sequence[int]) -> bool:
    """Whether two shapes can be the same; -1 on either side matches any size."""
    return len(expected) == len(found) and all(
        e == f or -1 in (e, f) for e, f in zip(expected, found, strict=True)
    )


def describe_shape(shape: Sequence[int]) -> str:
    """A shape for messages, such as 1x17x64x48; any size is a question mark."""
    return "x".join("?" if n == -1 else str(n) for n in shape)
