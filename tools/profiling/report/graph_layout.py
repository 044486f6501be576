"""Where the stages of a graph are drawn: in layers from left to right, with as few crossings as possible.

The usual method for layered graphs (Sugiyama, Tagawa and Toda 1981): a stage's layer is the length of the
longest path to it; an edge across several layers gets a bend in each of them; and each layer is sorted by
the mean position of its neighbours, forwards and backwards in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

STAGE_HEIGHT = 84.0
BEND_HEIGHT = 24.0
GAP = 34.0  # between stages of a layer
PASSES = 8

Node = str | tuple[int, int]  # a stage by its name, or a bend: the number of its edge, and the layer


@dataclass(frozen=True)
class Layout:
    """The layer of each stage and bend, the y of its centre in px, and the nodes along each edge."""

    layer: dict[Node, int]
    y: dict[Node, float]
    routes: list[list[Node]]  # by edge, from its producer to its consumer
    height: float


def lay_out(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> Layout:
    """Place the stages of a graph without cycles, and the bends of its edges."""
    layer: dict[Node, int] = dict.fromkeys(names, 0)
    for _ in names:  # the longest path has fewer edges than there are stages
        for producer, consumer in edges:
            layer[consumer] = max(layer[consumer], layer[producer] + 1)
    routes: list[list[Node]] = []
    for n, (producer, consumer) in enumerate(edges):
        between = range(layer[producer] + 1, layer[consumer])
        bends: list[Node] = [(n, number) for number in between]
        layer.update(zip(bends, between, strict=True))
        routes.append([producer, *bends, consumer])
    rows: list[list[Node]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for node, number in layer.items():
        rows[number].append(node)
    y = _sort_rows(rows, routes)
    low, high = min(y.values(), default=0.0), max(y.values(), default=0.0)
    centres = {node: at - low + STAGE_HEIGHT / 2 for node, at in y.items()}
    return Layout(layer, centres, routes, high - low + STAGE_HEIGHT)


def _sort_rows(rows: list[list[Node]], routes: Sequence[Sequence[Node]]) -> dict[Node, float]:
    """Sort each layer by the mean y of its neighbours, and return the y of each node."""
    before: dict[Node, list[Node]] = {}
    after: dict[Node, list[Node]] = {}
    for route in routes:
        for one, other in pairwise(route):
            before.setdefault(other, []).append(one)
            after.setdefault(one, []).append(other)
    y: dict[Node, float] = {}
    for row in rows:
        _place(row, dict.fromkeys(row, 0.0), y)
    for turn in range(PASSES):
        forward = turn % 2 == 0
        neighbours = before if forward else after
        for row in rows if forward else reversed(rows):
            wanted = {
                node: sum(y[other] for other in neighbours[node]) / len(neighbours[node])
                if neighbours.get(node) else y[node]
                for node in row
            }  # fmt: skip
            row.sort(key=wanted.__getitem__)
            _place(row, wanted, y)
    return y


def _place(row: Sequence[Node], wanted: Mapping[Node, float], y: dict[Node, float]) -> None:
    """Set the y of a layer's nodes from top to bottom, as close to the wanted ones as they fit."""
    at = 0.0
    for n, node in enumerate(row):
        at = wanted[node] if n == 0 else max(wanted[node], at + _distance(row[n - 1], node))
        y[node] = at
    shift = sum(wanted[node] - y[node] for node in row) / max(len(row), 1)
    for node in row:
        y[node] += shift


def _distance(one: Node, other: Node) -> float:
    """The least distance between the centres of two nodes of a layer."""
    heights = [STAGE_HEIGHT if isinstance(node, str) else BEND_HEIGHT for node in (one, other)]
    return sum(heights) / 2 + GAP
