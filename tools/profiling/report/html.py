"""The report: one HTML file that needs nothing else, neither a network nor a library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import ConfigError
from tools.profiling.compare import Comparison
from tools.profiling.document import Profile
from tools.profiling.number_format import (
    age_p99_ms,
    best,
    count,
    cpu_per_frame_ms,
    figure,
    measured,
    named_settings,
    percent,
    when,
)
from tools.profiling.report import charts
from tools.profiling.report.blocks import card, grid, section, table
from tools.profiling.report.markup import Child, Html, svg, tag
from tools.profiling.report.sections import sections
from tools.profiling.table import limited_by

HERE = Path(__file__).parent
CHARTS: tuple[tuple[str, Callable[[Profile], float | None]], ...] = (
    ("Frames/s", lambda profile: profile.fps),
    ("% of the bound", lambda profile: 100 * profile.bound.share if profile.bound else None),
    ("Processor ms a frame", cpu_per_frame_ms),
    ("Age p99, ms", age_p99_ms),
    ("Cores kept busy", lambda profile: profile.use.cores),
    ("Memory, MB", lambda profile: profile.use.memory_mb),
)


def write_html(
    profiles: Profile | Sequence[Profile], path: Path, comparison: Comparison | None = None
) -> None:
    """Write the report on one profile, or on the points of a sweep, with a comparison of one if given.

    Raises:
        ConfigError: it cannot be written there.
    """
    points = [profiles] if isinstance(profiles, Profile) else list(profiles)
    page = _page(points[0], sections(points[0], comparison)) if len(points) == 1 else _sweep(points)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _page(first: Profile, content: Child, said: str | None = None) -> str:
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    title = f"{first.graph}: posestream profile"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(style)),
    )
    where = f"{when(first)} · {first.machine.processor}, {count(first.machine.cores, 'core')}"
    header = tag(
        "header",
        tag("h1", first.graph, tag("small", "posestream profile")),
        tag("p", said or measured(first)),
        tag("p", where, class_="hint"),
        tag("p", tag("code", first.command)),
        tag("nav", aria_label="sections"),
    )
    body = tag("body", _patterns(), header, tag("main", content), tag("script", Html(script)))
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _patterns() -> Html:
    """Hatchings, so that no state of a stage is told by its colour alone."""
    return svg(
        0,
        0,
        "patterns",
        _pattern("waiting", tag("path", d="M-1,1l2,-2M0,6l6,-6M5,7l2,-2", class_="hatch")),
        _pattern("blocked", tag("circle", cx=3, cy=3, r=1.1, class_="spot")),
        class_="patterns",
    )


def _pattern(state: str, drawn: Html) -> Html:
    ground = tag("rect", width=6, height=6, class_=f"fill {state}")
    return tag("pattern", ground, drawn, id=state, width=6, height=6, patternUnits="userSpaceOnUse")


def _sweep(points: list[Profile]) -> str:
    winner = best(points)
    swept = list(dict.fromkeys(name for point in points for name in point.settings))
    head = (
        *swept, "fps", "cores", "processor ms/frame", "age p99 ms", "of the bound", "memory MB",
        "limited by", "",
    )  # fmt: skip
    rows: list[list[Child]] = [
        [
            *(point.settings.get(name, "") for name in swept),
            figure(point.fps),
            figure(point.use.cores),
            figure(cpu_per_frame_ms(point)),
            figure(age_p99_ms(point)),
            percent(point.bound.share) if point.bound else "",
            figure(point.use.memory_mb),
            limited_by(point.verdict),
            "★ best" if point is winner else "",
        ]
        for point in points
    ]
    said = f"Best: {named_settings(winner)} with {figure(winner.fps)} frames/s. {winner.verdict.said}"
    overview = section(
        "Sweep",
        f"The same run with other {' and '.join(swept)}. Where frames/s no longer grow, but the age does, "
        "the machine is full.",
        [
            tag("p", said, class_="said small"),
            table(head, rows, text=len(swept), marked=points.index(winner)),
            grid(*(card(heading, _chart(points, of, heading)) for heading, of in CHARTS)),
        ],
    )
    each = [_point(point, opened=point is winner) for point in points]
    said = f"{count(len(points), 'point')} of a sweep over {' and '.join(swept)}"
    return _page(points[0], [overview, each], said)


def _point(point: Profile, *, opened: bool) -> Html:
    name = named_settings(point)
    said = f"{figure(point.fps)} frames/s. {point.verdict.said}"
    summary = tag("summary", tag("h2", name), said)
    return tag("details", summary, sections(point), open="" if opened else None, data_name=name)


def _chart(points: Sequence[Profile], of: Callable[[Profile], float | None], said: str) -> Html:
    """Along the setting with the most values; a line for each combination of the others."""
    names = list(dict.fromkeys(name for point in points for name in point.settings))
    values = {name: list(dict.fromkeys(point.settings.get(name, "") for point in points)) for name in names}
    along = max(names, key=lambda name: (len(values[name]), all(map(_is_number, values[name]))), default="")
    lines: dict[str, list[float | None]] = {}
    for point in points:
        others = " ".join(f"{name}={value}" for name, value in point.settings.items() if name != along)
        series = lines.setdefault(others, [None] * len(values.get(along, [""])))
        series[values[along].index(point.settings.get(along, "")) if along else 0] = of(point)
    labels = [f"{along}={value}" if n == 0 else value for n, value in enumerate(values.get(along, [""]))]
    return charts.over_values(
        labels, lines, f"{said} by {along}", joined=all(map(_is_number, values.get(along, [])))
    )


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
