"""What a run prints: live, a line for each source or camera; at the end, the table of its stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.measurement.run_stats import RunStats
from pipeline.measurement.stream_stats import StreamStats
from tools.service.attached import StreamNow
from tools.views import duration


class Progress:
    """A live view of a run, with a line for each source; does nothing unless `shown`."""

    def __init__(self, console: Console, *, shown: bool):
        self._live = Live(console=console, refresh_per_second=8, transient=True) if shown else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, stats: Callable[[], RunStats]) -> None:
        """Update the view; `stats` is only called if the view is shown."""
        if self._live:
            self._live.update(_lines(stats()))

    def show_cameras(self, cameras: Callable[[], Sequence[StreamNow]]) -> None:
        """Update the view of a live run, with a line for each camera."""
        if self._live:
            self._live.update(_cameras(cameras()))


def _lines(stats: RunStats) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(7):
        table.add_column(no_wrap=True)
    for stream in stats.streams:
        of_all = f" / {stream.expected}" if stream.expected else ""
        table.add_row(
            f"[bold]{escape(stream.name)}",
            ProgressBar(
                total=stream.expected, completed=stream.finished, width=24, pulse=not stream.expected
            ),
            f"{stream.finished}{of_all} frames",
            f"{stream.fps:.1f} fps",
            f"{stream.instances_per_frame:.1f} instances a frame",
            f"{stream.dropped} dropped",
            "done" if stream.ended else _time_left(stream),
        )
    return table


def _time_left(stream: StreamStats) -> str:
    if not stream.expected or not stream.fps:
        return ""
    left_s = max(stream.expected - stream.finished, 0) / stream.fps
    return f"{int(left_s // 60)}:{int(left_s % 60):02} left"


def _cameras(cameras: Sequence[StreamNow]) -> Table | str:
    attached = [camera for camera in cameras if camera.state != "ended"]
    if not attached:
        return "no camera is attached; attach one with POST /streams, or end with Ctrl-C"
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for _ in range(5):
        table.add_column(no_wrap=True, justify="right")
    for camera in attached:
        age = f"age {camera.age_p50_ms:.0f}, p99 {camera.age_p99_ms:.0f} ms" if camera.fps else ""
        table.add_row(
            f"[bold]{escape(camera.name)}",
            f"{camera.fps:.1f} fps",
            age,
            f"{camera.instances:.1f} instances",
            f"{camera.dropped} dropped",
            Text(_trouble(camera), style="red"),
        )
    return table


def _trouble(camera: StreamNow) -> str:
    if camera.state == "waiting":
        return "waiting for its first frame"
    if camera.state != "lost":
        return ""
    since = f" for {duration(time.time() - camera.lost_since_ns / 1e9)}" if camera.lost_since_ns else ""
    return f"lost{since}" + (f": {camera.reason}" if camera.reason else "")


def log_summary(cameras: Sequence[StreamNow]) -> str:
    """Describe all cameras in one line, for a log."""
    attached = [camera for camera in cameras if camera.state != "ended"]
    working = [camera for camera in attached if camera.fps]
    summary = (
        f"{len(working)} of {len(attached)} cameras give frames, {sum(c.fps for c in working):.1f} frames/s"
    )
    if working:
        summary += f", age p99 {max(c.age_p99_ms for c in working):.0f} ms for the worst"
    if dropped := sum(camera.dropped_now for camera in attached):
        summary += f", {dropped} dropped in the last seconds"
    lost = [f"{camera.name} {_trouble(camera)}" for camera in attached if camera.state == "lost"]
    return summary + (f"; {', '.join(lost)}" if lost else "")


def print_summary(stats: RunStats, console: Console) -> None:
    """Print what was finished, a row for each stage, and a line for each counter and reason of drops."""
    streams = len(stats.streams) + stats.past.streams
    console.print(
        f"{stats.graph}: {stats.finished} frames of {streams} "
        f"{'source' if streams == 1 else 'sources'} in {stats.seconds:.1f} s, "
        f"{stats.fps:.1f} frames/s, {stats.dropped} dropped",
        style="bold",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_stages(stats))
    for place, event, n in _counted(stats):
        console.print(f"{place}: {event}: {n}", markup=False, highlight=False, soft_wrap=True)
    for fault in stats.faults:
        line = Text(f"unaccounted for: {fault.found}; {fault.remedy}", style="red")
        console.print(line, highlight=False, soft_wrap=True)


def _stages(stats: RunStats) -> Table:
    table = Table()
    table.add_column("stage", overflow="fold")
    for name in ("workers", "in", "out", "busy", "batch", "p50 ms", "p95 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in stats.stages:
        table.add_row(
            stage.name,
            str(stage.workers),
            str(stage.packets_in) if stage.packets_in else "",
            str(stage.packets_out),
            f"{100 * stage.busy:.0f} %",
            f"{stage.mean_batch:.1f}" if stage.mean_batch else "",
            f"{stage.latency_p50_ms:.1f}",
            f"{stage.latency_p95_ms:.1f}",
        )
    return table


def _counted(stats: RunStats) -> Iterator[tuple[str, str, int]]:
    """Where something was counted or dropped, what or why, and how often."""
    for stage in stats.stages:
        yield from ((stage.name, event, n) for event, n in stage.counters.items())
        yield from ((stage.name, f"dropped: {reason}", n) for reason, n in stage.dropped.items())
    for edge in stats.edges:
        yield from ((edge.name, f"dropped: {reason}", n) for reason, n in edge.dropped.items())
