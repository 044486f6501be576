"""What a run shows: a live line a source or a camera, and the table at the end."""

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

from pipeline.measurement.stats import RunStats, StreamStats
from tools.service.attached import StreamNow


class Progress:
    """A live view of a run, a line a source; shows nothing where it is not wanted."""

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
        """Bring the view up to date; figures are only asked for where they are shown."""
        if self._live:
            self._live.update(_lines(stats()))

    def show_cameras(self, cameras: Callable[[], Sequence[StreamNow]]) -> None:
        """The same for a live run: a line a camera."""
        if self._live:
            self._live.update(_cameras(cameras()))


def _lines(stats: RunStats) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(7):
        table.add_column(no_wrap=True)
    for stream in stats.streams:
        of = f" / {stream.expected}" if stream.expected else ""
        rate = stream.finished / stats.seconds if stats.seconds else 0
        table.add_row(
            f"[bold]{stream.name}",
            ProgressBar(
                total=stream.expected, completed=stream.finished, width=24, pulse=not stream.expected
            ),
            f"{stream.finished}{of} frames",
            f"{rate:.1f} fps",
            f"{_people(stream)} a frame",
            f"{stream.dropped} dropped",
            "done" if stream.ended else _eta(stream, rate),
        )
    return table


def _people(stream: StreamStats) -> str:
    return f"{stream.instances / stream.finished if stream.finished else 0:.1f} instances"


def _eta(stream: StreamStats, rate: float) -> str:
    if not stream.expected or not rate:
        return ""
    left = max(stream.expected - stream.finished, 0) / rate
    return f"{int(left // 60)}:{int(left % 60):02} left"


def _cameras(cameras: Sequence[StreamNow]) -> Table | str:
    attached = [camera for camera in cameras if camera.state != "ended"]
    if not attached:
        return "no camera is attached; POST /streams attaches one, Ctrl-C ends"
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for _ in range(5):
        table.add_column(no_wrap=True, justify="right")
    for camera in attached:
        age = f"age {camera.age_p50_ms:.0f}, 99 % below {camera.age_p99_ms:.0f} ms" if camera.fps else ""
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
    since = f" for {lasting(time.time() - camera.lost_since_ns / 1e9)}" if camera.lost_since_ns else ""
    return f"lost{since}" + (f": {camera.reason}" if camera.reason else "")


def lasting(seconds: float) -> str:
    """A span of time as it is said: 12 s, 3:05 min, 7:12 h."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


def in_one_line(cameras: Sequence[StreamNow]) -> str:
    """All cameras in one line, for a log that is read later."""
    attached = [camera for camera in cameras if camera.state != "ended"]
    working = [camera for camera in attached if camera.fps]
    said = (
        f"{len(working)} of {len(attached)} cameras give frames, {sum(c.fps for c in working):.1f} frames/s"
    )
    if working:
        said += f", age at most {max(c.age_p99_ms for c in working):.0f} ms (p99 of the worst)"
    if dropped := sum(camera.dropped_now for camera in attached):
        said += f", {dropped} dropped lately"
    lost = [f"{camera.name} {_trouble(camera)}" for camera in attached if camera.state == "lost"]
    return said + (f"; {', '.join(lost)}" if lost else "")


def print_summary(stats: RunStats, console: Console) -> None:
    """What went through end to end, a row a stage, a line for whatever was noted or dropped on the way."""
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
    for name, what, n in _noted(stats):
        console.print(f"{name}: {what}: {n}", markup=False, highlight=False, soft_wrap=True)


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


def _noted(stats: RunStats) -> Iterator[tuple[str, str, int]]:
    """What stages counted, and what was dropped: where, what or why, and how often."""
    for stage in stats.stages:
        yield from ((stage.name, what, n) for what, n in stage.counters.items())
        yield from ((stage.name, f"dropped: {why}", n) for why, n in stage.dropped.items())
    for edge in stats.edges:
        yield from ((edge.name, f"dropped: {why}", n) for why, n in edge.dropped.items())
