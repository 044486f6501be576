from __future__ import annotations

import io

import pytest
from profile_example import ODD_NAME, profile, swept
from rich.console import Console

from tools.profiling.document import Profile, Unaccounted
from tools.profiling.table import lost_at, print_profile, print_sweep


def printed(profile: Profile, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_profile(profile, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, heading: str, name: str) -> list[str]:
    """The words of a row below a heading."""
    lines = text[text.index(heading) :].splitlines()
    return next(line for line in lines[2:] if line.split()[:1] == [name]).split()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_tables_fit_and_nothing_is_cut_off(width):
    text = printed(profile(), width)
    tables = [line for line in text.splitlines() if "  " in line.strip() and not line.startswith("  ")]
    assert max(map(len, tables)) <= width
    cut = text.replace(profile().command, "").replace("= self", "")
    assert "…" not in cut
    for stage in profile().stages:
        assert stage.name in text
    assert ODD_NAME in text


def test_the_verdict_comes_first_then_the_bound():
    text = printed(profile())
    assert text.startswith("pose limits the run")
    assert text.index("87 % of the bound of 132 frames/s") < text.index("stages:")
    assert "GPU 132, sources 160, processors 205" in text


def test_a_stage_says_how_it_spends_its_time():
    words = row(printed(profile()), "how they spend", "pose")
    assert words == ["pose", "2", "115", "97", "%", "64", "%", "33", "%", "0", "%", "88", "%"]


def test_drops_on_an_edge_are_shown_at_the_stage_behind_it():
    assert lost_at(profile(), "detect") == {"drop_oldest": 144}
    assert lost_at(profile(), "pose") == {"too old": 18}
    assert "144 drop_oldest" in printed(profile(), 100)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "4,212 read = 4,003 finished + 203 dropped + 6 in flight"),
        (
            {
                "unaccounted": [Unaccounted(stage="pose", stream="a", kind="swallowed", packets=40)],
                "closed": False,
            },
            "packets are unaccounted for; pose took 40 packets of a that it neither gave on nor dropped",
        ),
        (
            {
                "unaccounted": [Unaccounted(stage="pose", stream="a", kind="reordered", packets=2)],
                "closed": False,
            },
            "4,212 read = 4,003 finished + 203 dropped + 6 in flight: packets are unaccounted for; pose gave 2 ",
        ),
        (
            {"read": 4213, "closed": False},
            "4,213 read ≠ 4,003 finished + 203 dropped + 6 in flight: packets are unaccounted",
        ),
    ],
)
def test_the_flow_is_printed_as_a_sum(changes, expected):
    flow = profile().flow.model_copy(update=changes)
    assert expected in printed(profile(flow=flow))


def test_empty_tables_are_left_out():
    bare = profile(engines=[], use=profile().use.model_copy(update={"gpus": []}), bound=None)
    text = printed(bare)
    assert not [word for word in ("engines\n", "GPUs", "bound") if word in text]


def test_only_the_streams_with_the_oldest_frames_are_shown_of_many():
    one = profile().streams[0]
    many = [one.model_copy(update={"name": f"camera{n:02}", "age_p99_ms": 100.0 + n}) for n in range(64)]
    text = printed(profile(streams=many))
    assert "the 16 with the oldest frames, of 64" in text
    assert "camera63" in text
    assert "camera47" not in text


def test_a_sweep_has_a_row_a_point_and_marks_the_best():
    console = Console(file=io.StringIO(), width=80)
    print_sweep(swept(), console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len([line for line in lines if "pose" in line]) == 8
    (best,) = [line for line in lines if "best" in line]
    assert best.split()[:3] == ["4", "8", "114"]
