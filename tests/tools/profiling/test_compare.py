from __future__ import annotations

import io
import re

import pytest
from profile_example import edge, profile
from rich.console import Console

from pipeline.errors import ConfigError
from tools.profiling.compare import compare, print_comparison


def changed(part: str, **figures: object):
    """The example profile with other values of its machine or its use."""
    return profile(**{part: getattr(profile(), part).model_copy(update=figures)})


def with_stage(name: str, **figures: object):
    return profile(stages=[s.model_copy(update=figures) if s.name == name else s for s in profile().stages])


def with_engine(**figures: object):
    first, *others = profile().engines
    return profile(engines=[first.model_copy(update=figures), *others])


def with_ages(factor: float):
    streams = profile().streams
    return profile(streams=[s.model_copy(update={"age_p99_ms": factor * s.age_p99_ms}) for s in streams])


def with_drops(edges: int, **dropped: int):
    """The example profile with other drops on the edge to `detect`."""
    rest = profile().edges[1:]
    return profile(edges=[edge("decode", "detect", edges, **dropped), *rest])


@pytest.mark.parametrize(
    ("now", "worse"),
    [
        (profile(), []),
        (profile(fps=profile().fps * 0.96), []),
        (profile(fps=profile().fps * 0.9), ["frames/s", "processor ms/frame"]),
        (changed("bound", share=0.5), ["% of the bound"]),
        (changed("bound", share=0.5, fps=229.0), []),  # the models became faster, the run not slower
        (changed("use", cores=3.9), ["processor ms/frame"]),
        (changed("use", memory_mb=1400.0), ["memory MB"]),
        (with_ages(1.1), []),  # less than the histograms can show
        (with_ages(1.3), ["age p99 ms"]),
        (with_stage("detect", busy=0.8), ["work ms/packet"]),
        (with_stage("detect", cores=0.8), ["processor ms/packet"]),
        (with_stage("merge", busy=0.008), []),  # twice as slow, but a negligible part of a frame's time
        (with_engine(ms_per_item=5.0), ["engine ms/item"]),
        (with_drops(3600, drop_oldest=150), []),
        (with_drops(3600, drop_oldest=400), ["% dropped: drop_oldest"]),
        (with_drops(3600, drop_oldest=144, corrupt=1), ["% dropped: corrupt"]),
    ],
)  # fmt: skip
def test_values_that_are_worse_beyond_the_tolerance(now, worse):
    comparison = compare(profile(), now, 0.05)
    assert [row.what for row in comparison.rows if row.change == "worse"] == worse
    assert comparison.worse is bool(worse)


@pytest.mark.parametrize(
    ("before", "better"),
    [
        (profile(fps=profile().fps * 0.9), ["frames/s", "processor ms/frame"]),
        (with_stage("detect", busy=0.8), ["work ms/packet"]),
        (with_drops(3600, drop_oldest=400), ["% dropped: drop_oldest"]),
    ],
)
def test_values_that_are_better(before, better):
    comparison = compare(before, profile(), 0.05)
    assert [row.what for row in comparison.rows if row.change == "better"] == better
    assert not comparison.worse
    assert "Nothing is worse" in comparison.said


def test_the_tolerance_is_respected():
    slower = profile(fps=profile().fps * 0.9)
    assert not compare(profile(), slower, 0.2).worse
    assert compare(profile(), slower, 0.0).worse


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (profile(graph="human"), "graph 'animals'.*'human'"),
        (profile(live=False), "live sources.*files"),
    ],
)
def test_profiles_that_cannot_be_compared_are_refused(now, message):
    with pytest.raises(ConfigError, match=message):
        compare(profile(), now, 0.05)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (changed("machine", processor="Cortex-A76"), "AMD Ryzen 5 3600, 4 cores.* before, Cortex-A76"),
        (
            changed("machine", versions={"av": "19"}),
            "av 18.1.0 before, 19 now; onnxruntime 1.23.2 before, none",
        ),
        (profile(settings={"batch": "8"}), "other settings: none before, batch=8 now"),
        (changed("bound", fps=229.0), "bound itself was 132 frames/s before, 229 now"),
        (profile(streams_wanted=8), "other streams: 4 before, 8 now"),
        (profile(stages=profile().stages[:-1]), "other stages"),
        (with_engine(backend="litert"), "detect rtmdet-nano by litert"),
        (changed("use", cores_all=4.0), "other programs kept 0.6 of 4 cores busy during the run"),
    ],
)
def test_warnings_of_profiles_that_may_not_be_comparable(now, message):
    warnings = compare(profile(), now, 0.05).warnings
    assert [warning for warning in warnings if re.search(message, warning)]
    assert compare(profile(), profile(), 0.05).warnings == []


def test_equal_profiles_have_no_differences():
    assert compare(profile(), profile(), 0.0).said == "Nothing changed by more than 0 %."


def test_a_comparison_is_printed_with_the_difference():
    console = Console(file=io.StringIO(), width=80)
    print_comparison(compare(profile(), profile(fps=100.0), 0.05), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Worse by more than 5 %: run frames/s" in text
    (line,) = [line for line in text.splitlines() if line.startswith("run") and "frames/s" in line]
    assert line.split() == ["run", "frames/s", "115", "100", "-12.7", "%", "worse"]
    assert "detect" not in text.split("Worse")[1]  # nothing changed there
