from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest
from profile_example import edge, profile, stage

from tools.profiling.report.graph_drawing import draw_graph
from tools.profiling.report.graph_layout import GAP, STAGE_HEIGHT, lay_out

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
def test_a_stage_is_right_of_its_producers_and_apart_from_others(edges, layers):
    layout = lay_out(list(layers), edges)
    assert {name: layout.layer[name] for name in layers} == layers
    for one, other in combinations(layout.y, 2):
        if layout.layer[one] == layout.layer[other] and isinstance(one, str) and isinstance(other, str):
            assert abs(layout.y[one] - layout.y[other]) >= STAGE_HEIGHT + GAP - 1
    assert min(layout.y[name] for name in layers) >= STAGE_HEIGHT / 2 - 1
    assert max(layout.y[name] for name in layers) <= layout.height - STAGE_HEIGHT / 2 + 1


def test_a_long_edge_passes_beside_the_stages_between():
    layout = lay_out(list("abcd"), SKIP)
    bends = layout.routes[3][1:-1]
    assert [layout.layer[bend] for bend in bends] == [1, 2]
    for bend, name in zip(bends, "bc", strict=True):
        assert abs(layout.y[bend] - layout.y[name]) > STAGE_HEIGHT / 2


def test_edges_cross_no_more_than_they_must():
    layout = lay_out(["s", "a", "b", "x", "y"], [("s", "a"), ("s", "b"), ("a", "y"), ("b", "x")])
    assert (layout.y["a"] < layout.y["b"]) == (layout.y["y"] < layout.y["x"])


def test_the_load_is_drawn():
    drawn = ElementTree.fromstring(draw_graph(profile()))
    texts = ["".join(e.itertext()) for e in drawn.iter("text")]
    for one in profile().stages:
        assert one.name in texts
    assert [e.get("class") for e in drawn.iter("rect")].count("node limits") == 1
    assert texts.count("▼ bottleneck") == 1
    assert {"−144", "−1,538", "−18 dropped"} <= set(texts)
    lines = [e for e in drawn.iter("path") if (e.get("class") or "").startswith("edge")]
    thick = {"".join(e.itertext()).partition(":")[0]: float(e.get("stroke-width", 0)) for e in lines}
    assert thick["merge → video"] < thick["merge → kafka"]
    assert [e.get("class") for e in lines].count("edge lossy") == 2


def test_a_graph_of_one_stage_without_traffic():
    assert "decode" in draw_graph(profile(stages=[stage("decode")], edges=[]))
    assert "0/s" in draw_graph(profile(stages=[stage("a"), stage("b")], edges=[edge("a", "b", 0)]))
