from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from tools.profiling.number_format import figure, percent
from tools.profiling.report import charts
from tools.profiling.report.svg import tag


def boxes(drawn: Markup, class_: str) -> list[ElementTree.Element]:
    return [e for e in ElementTree.fromstring(drawn).iter() if e.get("class") == class_]


def words(drawn: Markup) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(drawn).iter("text")]


def widths(drawn: Markup, class_: str) -> list[float]:
    return [float(e.get("width", 0)) for e in boxes(drawn, class_)]


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, ""), (0, "0"), (0.004, "<0.01"), (0.0421, "0.04"), (4.371, "4.37"), (43.71, "43.7"), (437.1, "437"),
     (12437.1, "12,437"), (float("nan"), "")],
)  # fmt: skip
def test_figures_have_three_digits(value, written):
    assert figure(value) == written


@pytest.mark.parametrize(
    ("share", "written"),
    [(None, ""), (0, "0 %"), (0.0004, "<0.1 %"), (0.004, "0.4 %"), (0.973, "97 %"), (1.2, "120 %")],
)
def test_shares_in_percent(share, written):
    assert percent(share) == written


def test_text_and_attributes_are_escaped():
    assert tag("p", "<b>&", title='"<') == '<p title="&#34;&lt;">&lt;b&gt;&amp;</p>'
    assert tag("p", tag("b", "a"), None, 1) == "<p><b>a</b>1</p>"


def test_shares_fill_the_bar_in_proportion():
    drawn = charts.share_bars(
        {"pose": {"computing": 0.6, "waiting": 0.2, "blocked": 0.0, "idle": 0.2}}, "time"
    )
    computing, waiting, idle = (widths(drawn, f"state {s}")[0] for s in ("computing", "waiting", "idle"))
    assert computing == pytest.approx(3 * waiting, rel=0.01)
    assert idle == pytest.approx(waiting, rel=0.01)
    assert not boxes(drawn, "state blocked")
    assert {"60 %", "20 %"} <= set(words(drawn))


def test_shares_above_one_stay_within_the_picture():
    drawn = charts.share_bar({"computing": 0.9, "waiting": 0.6}, 0, 0, 100, 10)
    assert sum(widths(drawn, "state computing") + widths(drawn, "state waiting")) == pytest.approx(100)


def test_the_gauge_compares_the_run_with_the_limits():
    drawn = charts.gauge(80.0, 100.0, {"processors": 200.0, "GPU": 100.0}, 4)
    (ours,), (bound,), (limit,) = (widths(drawn, f"bar {kind}") for kind in ("ours", "bound", "limit"))
    assert ours == pytest.approx(0.8 * bound, rel=0.01)
    assert limit == pytest.approx(2 * bound, rel=0.01)
    assert words(drawn)[:3] == ["this run", "GPU", "processors"]


def test_an_engine_that_was_not_measured_alone_says_so():
    assert "not measured alone" in words(charts.pair_bars([("pose: m", 7.0, None)], "engines"))


def test_percentiles_are_in_order_on_the_axis():
    drawn = charts.ranges([("pose", 1.0, 10.0, 100.0), ("track", 0.0, 0.0, 0.0)], "latency")
    (line,), (stroke,) = boxes(drawn, "range"), boxes(drawn, "stroke")
    p50, p95, p99 = (float(at) for at in (line.get("x1", ""), stroke.get("x1", ""), line.get("x2", "")))
    assert p95 - p50 == pytest.approx(p99 - p95, rel=0.01)  # logarithmic
    assert "1.0 / 10 / 100" in words(drawn)


def test_batch_sizes_that_did_not_occur_have_no_bar():
    drawn = charts.columns({1: 10, 4: 30}, "pose")
    heights = [float(e.get("height", 0)) for e in boxes(drawn, "bar part")]
    assert heights[1:3] == [0, 0]
    assert heights[3] == pytest.approx(3 * heights[0], rel=0.01)
    assert {"1", "4", "25 %", "75 %"} <= set(words(drawn))


def test_a_long_run_is_drawn_with_fewer_points_but_both_ends():
    at = [n / 2 for n in range(10_000)]
    drawn = charts.over_time(at, {"fps": [50.0] * 10_000, "other": [None] * 10_000}, "fps")
    (path,) = boxes(drawn, "line")
    points = re.findall(r"[ML]([\d.]+),", path.get("d", ""))
    assert len(points) <= 400
    assert float(points[0]) < 60
    assert float(points[-1]) > 380


def test_a_sweep_has_a_line_for_each_of_the_other_settings():
    lines = {"batch=1": [30.0, 60.0, None], "batch=8": [30.0, 60.0, 110.0]}
    joined = charts.over_values(["1", "2", "4"], lines, "fps", joined=True)
    assert len(boxes(joined, "dot series0")) == 2
    assert len(boxes(joined, "dot series1")) == 3
    assert len(boxes(joined, "line series1")) == 1
    assert not boxes(charts.over_values(["a", "b", "c"], lines, "fps", joined=False), "line series1")


@pytest.mark.parametrize("value", [0.013, 1.0, 7.0, 119.9, 8001.0])
def test_the_axis_holds_its_largest_value(value):
    drawn = charts.over_time([0.0, 1.0], {"a": [0.0, value]}, "a")
    (path,) = boxes(drawn, "line")
    lowest = min(float(y) for y in re.findall(r",([\d.]+)", path.get("d", "")))
    assert 9.5 <= lowest <= 60  # not above the picture, and not flat at its bottom
