from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest
from profile_example import edge, profile, stage

from tools.profiling.report.graph_drawing import BETWEEN, HIGH, draw_graph, lay_out

DIAMOND = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]
SKIP = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")]
WIDE = [("a", "b"), ("a", "c"), ("a", "d"), ("b", "e"), ("d", "e")]


@pytest.mark.parametrize(
    ("edges", "layers"),
    [
        ([], {"a": 0}),
        (DIAMOND, {"a": 0, "b": 1, "c": 1, "d": 2}),
        (SKIP, {"a": 0, "b": 1, "c": 2, "d": 3}),
        (WIDE, {"a": 0, "b": 1, "c": 1, "d": 1, "e": 2}),
    ],
)
def test_stages_stand_behind_those_they_come_after_and_apart(edges, layers):
    layout = lay_out(list(layers), edges)
    assert {name: layout.layer[name] for name in layers} == layers
    for one, other in combinations(layout.y, 2):
        if layout.layer[one] == layout.layer[other] and isinstance(one, str) and isinstance(other, str):
            assert abs(layout.y[one] - layout.y[other]) >= HIGH + BETWEEN - 1
    assert min(layout.y[name] for name in layers) >= HIGH / 2 - 1
    assert max(layout.y[name] for name in layers) <= layout.height - HIGH / 2 + 1


def test_a_long_edge_passes_beside_the_stages_between():
    layout = lay_out(list("abcd"), SKIP)
    crossed = layout.ways[3][1:-1]
    assert [layout.layer[place] for place in crossed] == [1, 2]
    for place, name in zip(crossed, "bc", strict=True):
        assert abs(layout.y[place] - layout.y[name]) > HIGH / 2


def test_lines_do_not_cross_where_they_need_not():
    layout = lay_out(["s", "a", "b", "x", "y"], [("s", "a"), ("s", "b"), ("a", "y"), ("b", "x")])
    assert (layout.y["a"] < layout.y["b"]) == (layout.y["y"] < layout.y["x"])


def test_the_load_is_drawn():
    drawn = ElementTree.fromstring(draw_graph(profile()))
    said = ["".join(e.itertext()) for e in drawn.iter("text")]
    for one in profile().stages:
        assert one.name in said
    assert [e.get("class") for e in drawn.iter("rect")].count("node limits") == 1
    assert said.count("▼ bottleneck") == 1
    assert {"−144", "−1,538", "−18 dropped"} <= set(said)
    lines = [e for e in drawn.iter("path") if (e.get("class") or "").startswith("edge")]
    thick = {"".join(e.itertext()).partition(":")[0]: float(e.get("stroke-width", 0)) for e in lines}
    assert thick["merge → video"] < thick["merge → kafka"]
    assert [e.get("class") for e in lines].count("edge lossy") == 2


def test_a_graph_of_one_stage_without_traffic():
    assert "decode" in draw_graph(profile(stages=[stage("decode")], edges=[]))
    assert "0/s" in draw_graph(profile(stages=[stage("a"), stage("b")], edges=[edge("a", "b", 0)]))
