"""The graph drawn with its load: stages from left to right, wide lines where much flows, losses in red.

The layout is the usual one for layered graphs (Sugiyama, Tagawa and Toda 1981): a stage's layer is the
longest way to it, edges across several layers get places of their own in each, and each layer is sorted by
the means of its neighbours' places until fewer lines cross.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from tools.profiling.document import Edge, Profile, Stage
from tools.profiling.number_format import count, figure, percent, shares
from tools.profiling.report.charts import share_bar
from tools.profiling.report.svg import fitting, svg, tag, text

HIGH, BETWEEN, GAP = 84.0, 34.0, 70.0  # a stage's height, room between stages of a layer and between layers
ROOM = 26.0  # above all, for the bottleneck's label
THIN, THICK = 1.5, 9.0
PASSES = 8
SMALLEST = 0.78  # of its size; where the page is narrower, it scrolls

Place = str | tuple[int, int]  # a stage, or where an edge (its number) crosses a layer


@dataclass(frozen=True)
class Layout:
    """Where things are: the layer and the middle's y of each place, and the places that each edge passes."""

    layer: dict[Place, int]
    y: dict[Place, float]
    ways: list[list[Place]]  # by edge
    height: float


def draw_graph(profile: Profile) -> Markup:
    """The stages of a profile, their load, and what flowed along the edges."""
    stages = {stage.name: stage for stage in profile.stages}
    edges = [edge for edge in profile.edges if edge.producer in stages and edge.consumer in stages]
    layout = lay_out(list(stages), [(edge.producer, edge.consumer) for edge in edges])
    wide = min(max(138.0, *(8.6 * len(name) + 34 for name in stages)), 210.0)
    layers = max(layout.layer[name] for name in stages) + 1
    busiest = max((edge.delivered for edge in edges), default=0)
    lines = [
        _edge(edge, _line(layout, way, wide), busiest, profile.seconds)
        for edge, way in zip(edges, layout.ways, strict=True)
    ]
    nodes = [
        _stage(stage, _x(layout.layer[name], wide), layout.y[name] + ROOM - HIGH / 2, wide, profile)
        for name, stage in stages.items()
    ]
    width = layers * wide + (layers - 1) * GAP + 8
    said = f"the graph {profile.graph} with the load of its {count(len(stages), 'stage')}"
    # The lines first, and their labels over the stages.
    return svg(
        width,
        layout.height + ROOM + 10,
        said,
        [line for line, _ in lines],
        nodes,
        [label for _, label in lines],
        class_="graph",
        style=f"min-width:{SMALLEST * width:.0f}px",
    )


def lay_out(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> Layout:
    """Layers and places for the stages of a graph without cycles."""
    layer: dict[Place, int] = dict.fromkeys(names, 0)
    for _ in names:  # as many rounds as the longest way may have edges
        for producer, consumer in edges:
            layer[consumer] = max(layer[consumer], layer[producer] + 1)
    ways: list[list[Place]] = []
    for n, (producer, consumer) in enumerate(edges):
        between = range(layer[producer] + 1, layer[consumer])
        crossed: list[Place] = [(n, at) for at in between]
        layer.update(zip(crossed, between, strict=True))
        ways.append([producer, *crossed, consumer])
    rows: list[list[Place]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for place, at in layer.items():
        rows[at].append(place)
    y = _sorted_places(rows, ways)
    low, high = min(y.values(), default=0.0), max(y.values(), default=0.0)
    return Layout(layer, {place: at - low + HIGH / 2 for place, at in y.items()}, ways, high - low + HIGH)


def _sorted_places(rows: list[list[Place]], ways: Sequence[Sequence[Place]]) -> dict[Place, float]:
    before: dict[Place, list[Place]] = {}
    behind: dict[Place, list[Place]] = {}
    for way in ways:
        for one, other in pairwise(way):
            before.setdefault(other, []).append(one)
            behind.setdefault(one, []).append(other)
    y: dict[Place, float] = {}
    for row in rows:
        _put(row, dict.fromkeys(row, 0.0), y)
    for turn in range(PASSES):
        forward = turn % 2 == 0
        neighbours = before if forward else behind
        for row in rows if forward else reversed(rows):
            wanted = {
                place: sum(y[other] for other in neighbours[place]) / len(neighbours[place])
                if neighbours.get(place) else y[place]
                for place in row
            }  # fmt: skip
            row.sort(key=wanted.__getitem__)
            _put(row, wanted, y)
    return y


def _put(row: Sequence[Place], wanted: Mapping[Place, float], y: dict[Place, float]) -> None:
    """Places of a layer from top to bottom, as near to where they are wanted as they fit."""
    at = 0.0
    for n, place in enumerate(row):
        at = wanted[place] if n == 0 else max(wanted[place], at + _apart(row[n - 1], place))
        y[place] = at
    shift = sum(wanted[place] - y[place] for place in row) / max(len(row), 1)
    for place in row:
        y[place] += shift


def _apart(one: Place, other: Place) -> float:
    return sum(HIGH / 2 if isinstance(place, str) else 12.0 for place in (one, other)) + BETWEEN


def _x(layer: int, wide: float) -> float:
    return 4 + layer * (wide + GAP)


def _line(layout: Layout, way: Sequence[Place], wide: float) -> list[tuple[float, float]]:
    """An edge's points: out of the producer's right side, through its places, into the consumer."""
    points = [(_x(layout.layer[way[0]], wide) + wide, layout.y[way[0]] + ROOM)]
    for place in way[1:-1]:
        x, y = _x(layout.layer[place], wide), layout.y[place] + ROOM
        points += [(x, y), (x + wide, y)]
    return [*points, (_x(layout.layer[way[-1]], wide), layout.y[way[-1]] + ROOM)]


def _edge(
    edge: Edge, points: Sequence[tuple[float, float]], busiest: int, seconds: float
) -> tuple[Markup, Markup]:
    """The line of an edge, and its label."""
    rate, lost = edge.delivered / max(seconds, 1e-9), sum(edge.dropped.values())
    path = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        bend = (x0 + x1) / 2
        path += f"C{bend:.1f},{y0:.1f} {bend:.1f},{y1:.1f} {x1:.1f},{y1:.1f}"
    thick = THIN + (THICK - THIN) * edge.delivered / max(busiest, 1)
    told = (
        f"{edge.producer} → {edge.consumer}: {figure(rate)} packets/s, {edge.in_flight} in flight at the end"
    )
    told += "".join(f", {n:,} dropped: {why}" for why, n in edge.dropped.items() if n)
    line = tag(
        "path", tag("title", told), d=path, stroke_width=thick, class_="edge lossy" if lost else "edge"
    )
    # In the middle; of a long edge that is where it goes straight past other stages.
    middle = (len(points) - 2) // 4 * 2 + 1 if len(points) > 2 else 0
    (x0, y0), (x1, y1) = points[middle], points[middle + 1]
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    label = [text(x, y - thick / 2 - 5, f"{figure(rate)}/s", "rate", "middle")]
    if lost:
        label.append(text(x, y + thick / 2 + 14, f"−{lost:,}", "lost", "middle"))
        label.append(text(x, y + thick / 2 + 26, "dropped", "lost", "middle"))
    return line, tag("g", label)


def _stage(stage: Stage, x: float, y: float, wide: float, profile: Profile) -> Markup:
    limits, lost = profile.verdict.stage == stage.name, sum(stage.dropped.values())
    kind = stage.op if stage.op != stage.name else ""
    workers = f"×{stage.workers}" if stage.workers > 1 else ""
    told = [f"{stage.name} ({stage.op}), {count(stage.workers, 'worker')}"]
    told += [f"{state} {percent(share)}" for state, share in shares(stage).items()]
    told += [f"{n:,} dropped: {why}" for why, n in stage.dropped.items()]
    drawn = [
        tag("title", ", ".join(told)),
        tag("rect", x=x, y=y, width=wide, height=HIGH, rx=6, class_="node limits" if limits else "node"),
        text(x + 11, y + 21, fitting(stage.name, wide - (50 if workers else 22), 15.5), "stage"),
        text(x + wide - 11, y + 21, workers, "small", "end"),
        share_bar(shares(stage), x + 11, y + 30, wide - 22, 14),
        text(x + 11, y + 60, f"{percent(stage.busy)} busy", "small strong"),
        text(x + wide - 11, y + 60, f"{figure(stage.packets_per_s)}/s", "small", "end"),
        text(x + 11, y + 76, fitting(kind, wide - (100 if lost else 22), 11), "axis"),
    ]
    if lost:
        drawn.append(text(x + wide - 11, y + 76, f"−{lost:,} dropped", "lost", "end"))
    if limits:
        drawn.append(text(x + wide / 2, y - 8, "▼ bottleneck", "limit", "middle"))
    return tag("g", drawn)
