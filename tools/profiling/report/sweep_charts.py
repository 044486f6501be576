"""The charts of a sweep: one figure each, at all points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from markupsafe import Markup

from tools.profiling.document import Profile
from tools.profiling.number_format import age_p99_ms, cpu_per_frame_ms
from tools.profiling.report import charts

FIGURES: dict[str, Callable[[Profile], float | None]] = {
    "Frames/s": lambda profile: profile.fps,
    "% of the bound": lambda profile: 100 * profile.bound.share if profile.bound else None,
    "Processor ms a frame": cpu_per_frame_ms,
    "Age p99, ms": age_p99_ms,
    "Cores kept busy": lambda profile: profile.use.cores,
    "Memory, MB": lambda profile: profile.use.memory_mb,
}


def swept_names(points: Sequence[Profile]) -> list[str]:
    """The settings that vary."""
    return list(dict.fromkeys(name for point in points for name in point.settings))


def sweep_charts(points: Sequence[Profile]) -> Iterator[tuple[str, Markup]]:
    """Heading and chart of each figure: the setting with the most values is the axis, and each combination
    of the others a line.
    """
    names = swept_names(points)
    values = {name: list(dict.fromkeys(point.settings.get(name, "") for point in points)) for name in names}
    axis = max(names, key=lambda name: (len(values[name]), all(map(_is_number, values[name]))), default="")
    ticks = values.get(axis, [""])
    labels = [f"{axis}={value}" if n == 0 else value for n, value in enumerate(ticks)]
    for heading, figure in FIGURES.items():
        lines: dict[str, list[float | None]] = {}
        for point in points:
            others = " ".join(f"{name}={value}" for name, value in point.settings.items() if name != axis)
            line = lines.setdefault(others, [None] * len(ticks))
            line[ticks.index(point.settings.get(axis, ""))] = figure(point)
        yield (
            heading,
            charts.over_values(labels, lines, f"{heading} by {axis}", joined=all(map(_is_number, ticks))),
        )


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
