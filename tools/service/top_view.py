"""The picture that `posestream top` draws: the run, what its stages do, and its streams."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tools.run_report import lasting
from tools.service.attached import StreamNow
from tools.service.attached_stages import RunNow, StageNow
from tools.service.top_client import Seen, printable

LIMIT = 0.9  # share of the time from which on a stage is said to set the pace
STILL_S = 5.0  # that nothing was taken for so long is no coincidence

STAGE = ["", "stage", "per s", "its time", "busy", "blocked", "p95 ms", "queue", "drops/s"]
STAGE_WIDE = [
    "", "stage", "in/s", "out/s", "its time", "busy", "computes", "blocked", "batch", "waits", "p95 ms",
    "p99", "queue", "drops/s", "drops",
]  # fmt: skip
STREAM = ["stream", "state", "fps", "age p50", "p99 ms", "drops/s", "drops", "why"]
STREAM_WIDE = ["stream", "state", "fps", "age p50", "p99 ms", "instances", "read", "drops/s", "drops", "why"]
TEXTS = ("", "stage", "its time", "stream", "state", "why")  # all else are numbers

CROWD = 1.5  # threads that want each core; more must belong to other programs, if ours keep few cores busy
BAR = 12
PARTS = {
    "computes": ("█", "green"),
    "waits at work": ("▓", "yellow"),
    "blocked": ("░", "red"),
    "idle": ("·", "dim"),
}
FILLED = " ▁▂▃▄▅▆▇█"
STATES = {"lost": "bold red", "waiting": "yellow", "running": "green", "ended": "dim"}  # the worst first
RANKS = {state: rank for rank, state in enumerate(STATES)}

Row = Mapping[str, RenderableType]


class Picture:
    """How a run stood when it was seen; `trouble` is why nothing newer was.

    With a `height`, as many streams are shown as fit: the worst.
    """

    def __init__(self, seen: Seen, url: str, *, trouble: str | None = None, height: int | None = None):
        self._seen, self._url, self._trouble, self._height = seen, url, trouble, height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.update(height=None)  # of a screen, which each part would fill
        run = self._seen.run
        first, why = pace(run)
        rows = _stages(run, first)
        stages = _table(STAGE_WIDE, rows)
        wide = console.measure(stages, options=options.update(max_width=1000)).maximum <= options.max_width
        if not wide:
            stages = _table(STAGE, rows)
        above = Group(*self._header(), "", stages, _legend(), "", Text(printable(why), "bold"), "")
        yield above
        room = self._height and max(self._height - len(console.render_lines(above, options)), 1)
        yield self._streams(lambda part: len(console.render_lines(part, options)), room, wide)

    def _streams(
        self, lines: Callable[[RenderableType], int], room: int | None, wide: bool
    ) -> RenderableType:
        """All streams, those in trouble first; where there is no room for so many, the worst and a count."""
        streams = sorted(self._seen.streams, key=lambda stream: RANKS[stream.state])
        if not streams:
            return Text("no stream is attached; POST /streams attaches one", "dim")

        def table(shown: Sequence[StreamNow]) -> Table:
            rows = [_stream(stream, self._seen.run.window_s) for stream in shown]
            return _table(STREAM_WIDE if wide else STREAM, rows)

        if room is None or (len(streams) < room and lines(table(streams)) <= room):
            return table(streams)
        streams.sort(key=lambda stream: (RANKS[stream.state], -stream.dropped_now, -stream.age_p99_ms))
        shown = min(len(streams) - 1, max(room - 2, 0))  # a line for the titles, one for the count
        while True:
            rest = Text(f"… and {len(streams) - shown} more", "dim")
            part = Group(table(streams[:shown]), rest) if shown else rest
            over = lines(part) - room
            if over <= 0 or not shown:
                return part
            shown = max(shown - over, 0)

    def _header(self) -> Iterator[Text]:
        run = self._seen.run
        yield _joined(
            Text(printable(run.graph), "bold"), f"run {printable(run.run)}", f"up {lasting(run.uptime_s)}",
            Text(self._url, "dim"),
        )  # fmt: skip
        attached = [stream for stream in self._seen.streams if stream.state != "ended"]
        running = sum(stream.state == "running" for stream in attached)
        age = [f"age {run.age_p50_ms:.0f}, p99 {run.age_p99_ms:.0f} ms"] if run.fps else []
        yield _joined(
            Text(f"{run.fps:.1f} fps", "bold"), f"{running} of {len(attached)} streams", *age,
            f"{run.cores:.2f} of {run.processors} cores",
            f"{run.memory_mb:.0f} MB",
        )  # fmt: skip
        for problem in run.problems:
            yield Text(printable(problem), "bold yellow")
        if self._trouble:
            ago = lasting(time.monotonic() - self._seen.at_s)
            yield Text(f"seen {ago} ago, trying again; {self._trouble}", "bold red")


def pace(run: RunNow) -> tuple[str | None, str]:
    """The stage that sets the pace, None where none does, and a sentence of why. A simple rule, no more."""
    source, *stages = run.stages
    still = [stage for stage in stages if stage.waiting and not stage.packets_in_per_s]
    if still and run.window_s >= STILL_S:
        last = still[-1]  # those before it may only wait for room behind them
        waiting = "1 packet waits" if last.waiting == 1 else f"{last.waiting} packets wait"
        return last.name, f"{last.name} has taken nothing for {run.window_s:.0f} s, and {waiting} for it"
    if not any(stage.packets_out_per_s for stage in run.stages):
        return None, "no frames come"
    busiest = max([_at_work(source), *stages], key=lambda stage: stage.busy)
    share = f"{100 * busiest.busy:.0f} % of the time{_crowd(run)}"
    if busiest.busy <= LIMIT:
        return None, f"no stage sets the pace; {busiest.name} is busiest, {share}"
    who = "it is" if busiest.workers == 1 else f"its {busiest.workers} workers are"
    return busiest.name, f"{busiest.name} sets the pace: {who} at work {share}"


def _crowd(run: RunNow) -> str:
    """What else there is to know where processors are scarce: then all stages look busy."""
    if run.cores > LIMIT * run.processors:
        return f", and {run.cores:.1f} of {run.processors} cores are busy with this run"
    if run.load is not None and run.load > CROWD * run.processors:
        return f"; but other programs want the {run.processors} cores, too (load {run.load:.1f})"
    return ""


def _at_work(source: StageNow) -> StageNow:
    """The source without its waiting for frames, which is no work."""
    return replace(source, busy=source.computing, idle=round(1 - source.computing - source.blocked, 3))


def _stages(run: RunNow, first: str | None) -> list[Row]:
    source, *others = run.stages
    taking = [_stage(stage, run.window_s, marked=stage.name == first) for stage in others]
    reading = _stage(_at_work(source), run.window_s, marked=source.name == first)
    without = dict.fromkeys(("in/s", "batch", "waits", "p95 ms", "p99", "queue"), "")
    return [{**reading, **without, "per s": reading["out/s"]}, *taking]


def _stage(stage: StageNow, seconds: float, *, marked: bool) -> Row:
    workers = f" ×{stage.workers}" if stage.workers > 1 else ""
    lately = sum(stage.dropped_now.values())
    return {
        "": "▶" if marked else " ",
        "stage": Text(f"{printable(stage.name)}{workers}", "bold" if marked else ""),
        "per s": f"{stage.packets_in_per_s:.1f}",
        "in/s": f"{stage.packets_in_per_s:.1f}",
        "out/s": f"{stage.packets_out_per_s:.1f}",
        "its time": _bar(stage),
        "busy": Text(_percent(stage.busy), "bold" if marked else ""),
        "computes": _percent(stage.computing),
        "blocked": _percent(stage.blocked),
        "batch": f"{stage.mean_batch:.1f}" if stage.mean_batch else "",
        "waits": _ms(stage.wait_p95_ms),
        "p95 ms": _ms(stage.latency_p95_ms),
        "p99": _ms(stage.latency_p99_ms),
        "queue": _queue(stage),
        "drops/s": _drops(lately, seconds),
        "drops": str(sum(stage.dropped.values()) or ""),
    }


def _stream(stream: StreamNow, seconds: float) -> Row:
    gives = stream.fps > 0
    return {
        "stream": printable(stream.name),
        "state": Text(stream.state, STATES[stream.state]),
        "fps": f"{stream.fps:.1f}" if gives else "",
        "age p50": _ms(stream.age_p50_ms) if gives else "",
        "p99 ms": _ms(stream.age_p99_ms) if gives else "",
        "instances": f"{stream.instances:.1f}" if gives else "",
        "read": str(stream.read),
        "drops/s": _drops(stream.dropped_now, seconds),
        "drops": str(stream.dropped or ""),
        "why": Text(printable(_why(stream)), "red"),
    }


def _why(stream: StreamNow) -> str:
    if stream.state != "lost":
        return ""
    since = (
        [] if stream.lost_since_ns is None else [f"for {lasting(time.time() - stream.lost_since_ns / 1e9)}"]
    )
    return ": ".join([*since, *([stream.reason] if stream.reason else [])])


def _table(titles: Sequence[str], rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
    for title in titles:
        is_text = title in TEXTS
        table.add_column(
            title,
            justify="left" if is_text else "right",
            overflow="fold",
            no_wrap=not is_text or title in ("", "its time"),
        )
    for row in rows:
        table.add_row(
            *(Text(cell) if isinstance(cell, str) else cell for cell in map(row.__getitem__, titles))
        )
    return table


def _bar(stage: StageNow) -> Text:
    """What a stage does with its time, in twelve cells."""
    bar, upto, filled = Text(), 0.0, 0
    shares = (stage.computing, stage.busy - stage.computing, stage.blocked, stage.idle)
    for share, (cell, style) in zip(shares, PARTS.values(), strict=True):
        upto += share
        cells = round(upto * BAR) - filled
        bar.append(cell * cells, style)
        filled += cells
    return bar


def _legend() -> Text:
    legend = Text("  ")
    for name, (cell, style) in PARTS.items():
        legend.append(cell, style).append(f" {name}   ", "dim")
    return legend


def _queue(stage: StageNow) -> Text:
    if stage.capacity is None:
        return Text(str(stage.waiting))
    share = min(stage.waiting / max(stage.capacity, 1), 1.0)
    level = FILLED[math.ceil(share * (len(FILLED) - 1))]
    return Text(f"{level} {stage.waiting}/{stage.capacity}", "red" if share == 1 else "")


def _drops(packets: int, seconds: float) -> Text:
    return Text(f"{packets / seconds:.1f}" if packets and seconds else "", "red")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _ms(duration: float) -> str:
    return f"{duration:.1f}" if duration < 10 else f"{duration:.0f}"


def _joined(*parts: str | Text) -> Text:
    return Text(" · ").join([Text(part) if isinstance(part, str) else part for part in parts])
