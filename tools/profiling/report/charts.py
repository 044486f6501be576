"""The charts of the report, as SVG without a script; page.css has their colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from tools.profiling.number_format import figure, figures, percent
from tools.profiling.report.svg import fitting, svg, tag, text

WIDTH = 560.0
ROW = 26.0
LETTER = 6.6  # approximate width in px of a letter at 12 px
LEAST_MS = 0.01  # lowest left end of a logarithmic axis
MARKS = ("circle", "square", "diamond", "triangle")

Lines = Mapping[str, Sequence[float | None]]  # a value for each position on the axis; None: no value


def share_bars(rows: Mapping[str, Mapping[str, float]], label: str, marked: str | None = None) -> Markup:
    """A stacked bar a row, whose shares of the time add up to 1; the row `marked` is highlighted."""
    left, end = _names_width(rows), WIDTH - 20
    drawn = []
    for n, (name, shares) in enumerate(rows.items()):
        y = n * ROW
        drawn.append(_row_name(name, left, y, marked=name == marked))
        drawn.append(share_bar(shares, left, y + 4, end - left, ROW - 8, labels=True))
    y = len(rows) * ROW
    ticks = [_tick(left + (end - left) * at, 0, y, percent(at)) for at in (0, 0.25, 0.5, 0.75, 1)]
    return svg(WIDTH, y + 22, label, ticks, drawn)


def share_bar(
    shares: Mapping[str, float], x: float, y: float, width: float, height: float, *, labels: bool = False
) -> Markup:
    """One stacked bar; a share has a label where the label fits."""
    scale = width / max(sum(shares.values()), 1.0)
    parts = []
    for state, share in shares.items():
        drawn = max(share, 0.0) * scale
        if drawn > 0.2:
            title = tag("title", f"{state}: {percent(share)}")
            parts.append(tag("rect", title, x=x, y=y, width=drawn, height=height, class_=f"state {state}"))
        if labels and drawn > 34:
            parts.append(text(x + drawn / 2, y + height / 2 + 4, percent(share), f"in {state}", "middle"))
        x += drawn
    return tag("g", parts)


def gauge(ours: float, bound: float, limits: Mapping[str, float], cores: int) -> Markup:
    """Frames/s of this run, then of each limit, lowest first; the lowest limit is the bound."""
    rows = {"this run": ours, **dict(sorted(limits.items(), key=lambda item: item[1]))}
    left, end = _names_width(rows), WIDTH - 70
    scale = (end - left) / max(*rows.values(), 1e-9)
    drawn, values = [], []
    for n, (name, fps) in enumerate(rows.items()):
        y, kind = n * 30.0, "ours" if n == 0 else "bound" if fps <= bound * 1.0001 else "limit"
        title = tag("title", f"{name}: {figure(fps)} frames/s")
        wide = max(fps * scale, 1.0)
        drawn.append(_row_name(name, left, y + 2))
        drawn.append(tag("rect", title, x=left, y=y + 4, width=wide, height=20.0, class_=f"bar {kind}"))
        values.append(text(left + wide + 6, y + 19, figure(fps), "value"))
    height, x = len(rows) * 30.0, left + bound * scale
    line = tag("line", x1=x, x2=x, y1=0, y2=height, class_="mark")
    label = f"{figure(ours)} frames/s of at most {figure(bound)} on {cores} cores"
    return svg(WIDTH, height + 4, label, drawn, line, values)


def part_bars(rows: Sequence[tuple[str, float]], unit: str, label: str) -> Markup:
    """A bar a part, with its value; for instance in ms of a frame."""
    left, end = _names_width([name for name, _ in rows]), WIDTH - 70
    scale = (end - left) / max(*(value for _, value in rows), 1e-9)
    drawn = []
    for n, (name, value) in enumerate(rows):
        y = n * ROW
        drawn.append(_row_name(name, left, y))
        drawn.append(
            tag("rect", x=left, y=y + 5, width=max(value * scale, 1.0), height=16, class_="bar part")
        )
        drawn.append(text(left + value * scale + 6, y + 17, f"{figure(value)} {unit}", "value"))
    return svg(WIDTH, len(rows) * ROW + 4, label, drawn)


def pair_bars(rows: Sequence[tuple[str, float, float | None]], label: str) -> Markup:
    """Two bars a row, in ms: in the run, and alone if that was measured."""
    left, end = _names_width([row[0] for row in rows]), WIDTH - 60
    most = max(*(value or 0.0 for row in rows for value in row[1:]), 1e-9)
    scale, drawn = (end - left) / most, []
    for n, (name, run, alone) in enumerate(rows):
        y = n * 46.0
        drawn.append(_row_name(name, left, y + 8))
        for row, (kind, value) in enumerate((("ours", run), ("bound", alone))):
            if value is None:
                drawn.append(text(left, y + 34, "not measured alone", "axis"))
                continue
            top = y + 4 + 18 * row
            drawn.append(
                tag("rect", x=left, y=top, width=max(value * scale, 1.0), height=15, class_=f"bar {kind}")
            )
            drawn.append(text(left + value * scale + 6, top + 12, figure(value), "value"))
    return svg(WIDTH, len(rows) * 46.0, label, drawn)


def ranges(rows: Sequence[tuple[str, float, float, float]], label: str, marked: str | None = None) -> Markup:
    """p50 (dot), p95 (stroke) and p99 (diamond) of each row, in ms on a logarithmic axis."""
    values_text = [figures(*row[1:]) for row in rows]
    left, end = (
        _names_width([row[0] for row in rows]),
        WIDTH - 26 - LETTER * max(map(len, values_text), default=0),
    )
    values = [value for row in rows for value in row[1:] if value > 0]
    low = math.floor(math.log10(max(min(values, default=1.0), LEAST_MS)))
    high = max(math.ceil(math.log10(max(max(values, default=1.0), LEAST_MS))), low + 1)

    def at(ms: float) -> float:
        place = (math.log10(max(ms, 10.0**low)) - low) / (high - low)
        return left + (end - left) * min(max(place, 0.0), 1.0)

    height, drawn = len(rows) * ROW, []
    for power in range(low, high + 1):
        drawn.append(
            _tick(at(10.0**power), 0, height, f"{10.0**power:,g}" + (" ms" if power == high else ""))
        )
    for n, (name, p50, p95, p99) in enumerate(rows):
        y = n * ROW + ROW / 2
        title = tag("title", f"{name}: p50 {figure(p50)}, p95 {figure(p95)}, p99 {figure(p99)} ms")
        drawn.append(_row_name(name, left, n * ROW, marked=name == marked))
        if p99 > 0:
            line = tag("line", x1=at(p50), x2=at(p99), y1=y, y2=y, class_="range")
            dot = tag("circle", cx=at(p50), cy=y, r=4.5, class_="dot")
            stroke = tag("line", x1=at(p95), x2=at(p95), y1=y - 6, y2=y + 6, class_="stroke")
            drawn.append(tag("g", title, line, stroke, _mark("diamond", at(p99), y, "dot"), dot))
        drawn.append(text(WIDTH, y + 4, values_text[n], "value", "end"))
    return svg(WIDTH, height + 22, label, drawn)


def columns(sizes: Mapping[int, int], name: str) -> Markup:
    """How often each batch size occurred, as a share of the calls."""
    calls, width, height = sum(sizes.values()), 268.0, 92.0
    present = sorted(sizes)
    shown = list(range(present[0], present[-1] + 1)) if present[-1] - present[0] < 16 else present
    step = (width - 8) / len(shown)
    wide = min(0.8 * step, 40.0)
    most, drawn = max(sizes.values()) / calls, []
    for n, size in enumerate(shown):
        share = sizes.get(size, 0) / calls
        middle, tall = 4 + (n + 0.5) * step, max(share / most * height, 1.0) if share else 0.0
        title = tag("title", f"{size}: {sizes.get(size, 0):,} calls, {percent(share)}")
        x, y = middle - wide / 2, 18 + height - tall
        drawn.append(tag("rect", title, x=x, y=y, width=wide, height=tall, class_="bar part"))
        if share or step > 20:
            drawn.append(text(middle, height + 33, str(size), "axis", "middle"))
        if share and step > 30:
            drawn.append(text(middle, 14 + height - tall, percent(share), "small", "middle"))
    base = tag("line", x1=0, x2=width, y1=18 + height, y2=18 + height, class_="base")
    return svg(width, height + 40, f"batch sizes of {name}", base, drawn, class_="chart narrow")


def over_time(
    at_s: Sequence[float],
    lines: Lines,
    label: str,
    top: float | None = None,
) -> Markup:
    """A line a series over time, the first one filled; a dashed line shows the limit `top`."""
    width, left, right, height = 400.0, 48.0, 10.0, 110.0
    known = [value for values in lines.values() for value in values if value is not None]
    most = _round_up(max([*known, top or 0.0, 1e-9]))
    first, last = at_s[0], max(at_s[-1], at_s[0] + 1e-9)

    def x(s: float) -> float:
        return left + (width - left - right) * (s - first) / (last - first)

    def y(value: float) -> float:
        return 10 + height * (1 - value / most)

    drawn = []
    for share in (0.0, 0.5, 1.0):
        level = y(most * share)
        drawn.append(tag("line", x1=left, x2=width - right, y1=level, y2=level, class_="grid"))
        drawn.append(text(left - 6, level + 4, f"{most * share:,g}", "axis", "end"))
    for s in (first, (first + last) / 2, last):
        drawn.append(text(x(s), height + 27, f"{figure(s)} s", "axis", "end" if s == last else "middle"))
    if top:
        drawn.append(tag("line", x1=left, x2=width - right, y1=y(top), y2=y(top), class_="mark"))
    for n, (name, values) in enumerate(lines.items()):
        points = [(x(s), y(v)) for s, v in zip(*_thinned(at_s, values), strict=True)]
        path = "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in points)
        if not points:
            continue
        if n == 0:
            area = f"{path}L{points[-1][0]:.1f},{y(0):.1f}L{points[0][0]:.1f},{y(0):.1f}Z"
            drawn.append(tag("path", d=area, class_="area"))
        drawn.append(tag("path", tag("title", name), d=path, class_="line" if n == 0 else "line other"))
    return svg(width, height + 32, label, drawn, class_="chart over-time")


def over_values(values: Sequence[str], lines: Lines, label: str, *, joined: bool) -> Markup:
    """A figure over the values of a swept setting; a line a series, with its name at the last point."""
    left, right, height = 52.0, 24.0 + max((len(name) for name in lines), default=0) * LETTER, 150.0
    right = min(right, 200.0)
    known = [value for series in lines.values() for value in series if value is not None]
    most = _round_up(max([*known, 1e-9]))
    step = (WIDTH - left - right) / max(len(values) - 1, 1)
    drawn = []
    for share in (0.0, 0.5, 1.0):
        level = 10 + height * (1 - share)
        drawn.append(tag("line", x1=left, x2=WIDTH - right, y1=level, y2=level, class_="grid"))
        drawn.append(text(left - 6, level + 4, f"{most * share:,g}", "axis", "end"))
    for n, value in enumerate(values):
        drawn.append(text(left + n * step, height + 28, fitting(value, max(step, 40)), "axis", "middle"))
    ends: list[float] = []
    for n, (name, series) in enumerate(lines.items()):
        points = [
            (left + i * step, 10 + height * (1 - v / most), v) for i, v in enumerate(series) if v is not None
        ]
        if not points:
            continue
        if joined:
            path = "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b, _ in points)
            drawn.append(tag("path", d=path, class_=f"line series{n % len(MARKS)}"))
        for a, b, v in points:
            title = tag("title", f"{name} {figure(v)}".strip())
            drawn.append(_mark(MARKS[n % len(MARKS)], a, b, f"dot series{n % len(MARKS)}", title))
        end = _free_y(points[-1][1], ends)
        drawn.append(text(points[-1][0] + 10, end + 4, fitting(name, right - 14), "value"))
    return svg(WIDTH, height + 36, label, drawn)


def _free_y(y: float, taken: list[float]) -> float:
    """A y for a label, near the given one and away from the labels that are there."""
    while any(abs(y - other) < 13 for other in taken):
        y += 13
    taken.append(y)
    return y


def _names_width(names: Sequence[str] | Mapping[str, object]) -> float:
    return min(max((len(name) for name in names), default=0) * LETTER + 18, 220.0)


def _row_name(name: str, left: float, y: float, *, marked: bool = False) -> Markup:
    shown = text(
        left - 8, y + ROW / 2 + 4, fitting(name, left - 14), "name marked" if marked else "name", "end"
    )
    return tag("g", tag("title", name), shown)


def _tick(x: float, top: float, bottom: float, label: str) -> Markup:
    line = tag("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid")
    return tag("g", line, text(x, bottom + 15, label, "axis", "middle"))


def _mark(kind: str, x: float, y: float, class_: str, *children: Markup) -> Markup:
    if kind == "circle":
        return tag("circle", *children, cx=x, cy=y, r=4, class_=class_)
    shapes: dict[str, Callable[[], str]] = {
        "square": lambda: f"M{x - 4},{y - 4}h8v8h-8Z",
        "diamond": lambda: f"M{x},{y - 5.5}l5.5,5.5l-5.5,5.5l-5.5,-5.5Z",
        "triangle": lambda: f"M{x},{y - 5}l5,9h-10Z",
    }
    return tag("path", *children, d=shapes[kind](), class_=class_)


def _round_up(value: float) -> float:
    """A good end of an axis: 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6 or 8 times a power of ten, not below `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        nice * power for nice in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if value <= nice * power * 1.02
    )


def _thinned(
    at_s: Sequence[float], values: Sequence[float | None], most: int = 400
) -> tuple[list[float], list[float]]:
    """At most `most` points; if there are more, means of neighbours."""
    known = [(s, value) for s, value in zip(at_s, values, strict=True) if value is not None]
    every = math.ceil(len(known) / most) or 1
    groups = [known[i : i + every] for i in range(0, len(known), every)]
    return [sum(s for s, _ in g) / len(g) for g in groups], [sum(v for _, v in g) / len(g) for g in groups]
