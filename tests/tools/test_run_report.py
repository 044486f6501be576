"""What a run prints: the live view, the log line of a live run, the table at the end."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import toys
from rich.console import Console

from pipeline.run import Run
from tools.run_report import Progress, log_summary, print_summary
from tools.service.attached import StreamNow
from tools.views import duration

YARD = StreamNow(
    name="yard", source="yard", uri="rtsp://yard", state="running", fps=12.5, age_p50_ms=40.0, age_p99_ms=90.0,
    instances=1.5, read=130, finished=120, dropped=10, dropped_now=4, counters={},
)  # fmt: skip
BARN = replace(YARD, name="barn", fps=7.5, age_p99_ms=250.0, dropped_now=0)


NOW_S = 1.7e9


@pytest.fixture(autouse=True)
def _the_time_stands_still(monkeypatch):
    monkeypatch.setattr("tools.run_report.time.time", lambda: NOW_S)


def lost(name: str) -> StreamNow:
    since_ns = round((NOW_S - 185) * 1e9)
    return replace(
        YARD, name=name, state="lost", fps=0.0, dropped_now=0, lost_since_ns=since_ns, reason="no route"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (185, "3:05 min"), (3599.6, "1:00 h"), (26000, "7:13 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("cameras", "line"),
    [
        ([], "0 of 0 cameras give frames, 0.0 frames/s"),
        ([YARD, BARN],
         "2 of 2 cameras give frames, 20.0 frames/s, age p99 250 ms for the worst, 4 dropped in the last seconds"),
        ([BARN, lost("gate"), replace(YARD, name="gone", state="ended")],
         "1 of 2 cameras give frames, 7.5 frames/s, age p99 250 ms for the worst; gate lost for 3:05 min: no route"),
    ],
)  # fmt: skip
def test_the_log_line_of_a_live_run(cameras, line):
    assert log_summary(cameras) == line


def terminal() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)


def test_the_live_view_shows_a_line_for_each_camera():
    console = terminal()
    with Progress(console, shown=True) as view:
        view.show_cameras(lambda: [YARD, lost("[red]gate")])
    shown = console.file.getvalue()
    assert "12.5 fps" in shown
    assert "age 40, p99 90 ms" in shown
    assert "[red]gate" in shown
    assert "lost for 3:05 min: no route" in shown


def test_nothing_is_shown_and_asked_for_without_a_live_view():
    console = terminal()
    with Progress(console, shown=False) as view:
        view.show_cameras(lambda: pytest.fail("asked for the cameras"))
    assert console.file.getvalue() == ""


def test_the_summary_has_a_row_for_each_stage_and_a_line_for_each_drop():
    run = Run(
        toys.graph(bad={"op": "fail_at", "seq": 7, "on_error": "skip"}), {"[b]yard": "20", "barn": "20"}
    )
    run.start()
    stats = run.finish()
    console = Console(file=io.StringIO(), width=100)
    print_summary(stats, console)
    with Progress(live := terminal(), shown=True) as view:
        view.show(lambda: stats)
    summary = console.file.getvalue()
    assert summary.startswith("toy: 38 frames of 2 sources in ")
    assert "frames/s, 2 dropped\n" in summary
    (row,) = [line for line in summary.splitlines() if "bad" in line and "│" in line]
    assert row.replace("│", " ").split()[:4] == ["bad", "1", "40", "38"]
    assert "bad: dropped: error: 2\n" in summary
    assert "[b]yard" in live.file.getvalue()
    assert "19 / 20 frames" in live.file.getvalue()
