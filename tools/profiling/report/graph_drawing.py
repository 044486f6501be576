"""The graph drawn with its load: the more packets, the wider the line; losses are red."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from tools.profiling.document import Edge, Profile, Stage
from tools.profiling.number_format import count, figure, percent, shares
from tools.profiling.report.charts import share_bar
from tools.profiling.report.graph_layout import STAGE_HEIGHT, Layout, Node, lay_out
from tools.profiling.report.svg import fitting, svg, tag, text

LAYER_GAP = 70.0  # between layers
TOP = 26.0  # room for the label of the bottleneck
THIN, THICK = 1.5, 9.0
SMALLEST = 0.78  # of the full size; on a narrower page the picture scrolls


def draw_graph(profile: Profile) -> Markup:
    """The stages of a profile, their load, and what flowed along the edges."""
    stages = {stage.name: stage for stage in profile.stages}
    edges = [edge for edge in profile.edges if edge.producer in stages and edge.consumer in stages]
    layout = lay_out(list(stages), [(edge.producer, edge.consumer) for edge in edges])
    wide = min(max(138.0, *(8.6 * len(name) + 34 for name in stages)), 210.0)
    layers = max(layout.layer[name] for name in stages) + 1
    busiest = max((edge.delivered for edge in edges), default=0)
    lines = [
        _edge(edge, _line(layout, route, wide), busiest, profile.seconds)
        for edge, route in zip(edges, layout.routes, strict=True)
    ]
    nodes = [
        _stage(stage, _x(layout.layer[name], wide), layout.y[name] + TOP - STAGE_HEIGHT / 2, wide, profile)
        for name, stage in stages.items()
    ]
    width = layers * wide + (layers - 1) * LAYER_GAP + 8
    label = f"the graph {profile.graph} with the load of its {count(len(stages), 'stage')}"
    # What comes later is drawn on top: lines, then stages, then the labels of the lines.
    return svg(
        width,
        layout.height + TOP + 10,
        label,
        [line for line, _ in lines],
        nodes,
        [rate for _, rate in lines],
        class_="graph",
        style=f"min-width:{SMALLEST * width:.0f}px",
    )


def _x(layer: int, wide: float) -> float:
    return 4 + layer * (wide + LAYER_GAP)


def _line(layout: Layout, route: Sequence[Node], wide: float) -> list[tuple[float, float]]:
    """The points of an edge: from the producer's right side past all bends to the consumer's left side."""
    points = [(_x(layout.layer[route[0]], wide) + wide, layout.y[route[0]] + TOP)]
    for bend in route[1:-1]:
        x, y = _x(layout.layer[bend], wide), layout.y[bend] + TOP
        points += [(x, y), (x + wide, y)]
    return [*points, (_x(layout.layer[route[-1]], wide), layout.y[route[-1]] + TOP)]


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
    title = (
        f"{edge.producer} → {edge.consumer}: {figure(rate)} packets/s, {edge.in_flight} in flight at the end"
    )
    title += "".join(f", {n:,} dropped: {why}" for why, n in edge.dropped.items() if n)
    line = tag(
        "path", tag("title", title), d=path, stroke_width=thick, class_="edge lossy" if lost else "edge"
    )
    # The label is in the middle; on a long edge that is a straight part, beside another stage.
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
    title = [f"{stage.name} ({stage.op}), {count(stage.workers, 'worker')}"]
    title += [f"{state} {percent(share)}" for state, share in shares(stage).items()]
    title += [f"{n:,} dropped: {why}" for why, n in stage.dropped.items()]
    drawn = [
        tag("title", ", ".join(title)),
        tag(
            "rect",
            x=x,
            y=y,
            width=wide,
            height=STAGE_HEIGHT,
            rx=6,
            class_="node limits" if limits else "node",
        ),
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
