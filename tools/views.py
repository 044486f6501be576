"""What several views of a run share: filling their records from snapshots, and formatting durations."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_MISSING = object()


def fill(record: Callable[..., T], *snapshots: object, digits: int | None = None, **given: Any) -> T:
    """Make a `record`, a dataclass or a pydantic model, from the attributes of snapshots.

    A view names a figure once, as a field of its record. The field takes the value that is `given` for it,
    else the attribute of that name of the first snapshot that has one, else its default. Counters become
    plain dicts. With `digits`, floats are rounded.

    Raises:
        TypeError: a field has no value.
    """
    values = dict(given)
    for name in inspect.signature(record).parameters.keys() - given.keys():
        for snapshot in snapshots:
            if (value := getattr(snapshot, name, _MISSING)) is not _MISSING:
                values[name] = value
                break
    for name, value in values.items():
        if isinstance(value, Counter):
            values[name] = dict(value)
        elif digits is not None and isinstance(value, float):
            values[name] = round(value, digits)
    return record(**values)


def duration(seconds: float) -> str:
    """Format a duration: 12 s, 3:05 min, 7:12 h."""
    rounded = max(round(seconds), 0)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60}:{rounded % 60:02} min"
    return f"{rounded // 3600}:{rounded % 3600 // 60:02} h"
