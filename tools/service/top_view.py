"""The picture that `posestream top` draws: the run, what its stages do, and its streams."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from pipeline.measurement.faults import Fault, name_some
from pipeline.measurement.stage_stats import Shares
from tools.service.attached import StreamNow
from tools.service.attached_stages import RunNow, StageNow
from tools.service.top_client import Answer, printable
from tools.views import duration

# A stage that is at work for more than this share of its time sets the pace. Cores are scarce if more than
# this share of them is busy.
BUSY = 0.9
STILL_S = 5.0  # a stage that takes nothing for this long is stuck, not between two packets

STAGE = ["", "stage", "per s", "its time", "busy", "blocked", "p95 ms", "queue", "drops/s"]
STAGE_WIDE = [
    "", "stage", "in/s", "out/s", "its time", "busy", "computes", "blocked", "batch", "waits", "p95 ms",
    "p99", "queue", "drops/s", "drops",
]  # fmt: skip
STREAM = ["stream", "state", "fps", "age p50", "p99 ms", "drops/s", "drops", "why"]
STREAM_WIDE = ["stream", "state", "fps", "age p50", "p99 ms", "instances", "read", "drops/s", "drops", "why"]
TEXTS = ("", "stage", "its time", "stream", "state", "why")  # the other columns hold numbers

CROWDED = 1.5  # runnable threads per core above which other programs must want the cores, too
BAR_CELLS = 12
# How a stage spends its time: the part of `Shares`, how the legend calls it, the cell of the bar, its style.
PARTS = (
    ("computing", "computes", "█", "green"),
    ("waiting", "waits at work", "▓", "yellow"),
    ("blocked", "blocked", "░", "red"),
    ("idle", "idle", "·", "dim"),
)
ROOM_FOR_STREAMS = 6  # lines that are left for the streams before counters are shown
QUEUE_LEVELS = " ▁▂▃▄▅▆▇█"
STATES = {"lost": "bold red", "waiting": "yellow", "running": "green", "ended": "dim"}  # the worst first
RANKS = {state: rank for rank, state in enumerate(STATES)}

Row = Mapping[str, RenderableType]


class Picture:
    """A run as its control API described it; `trouble` says why there is no newer answer.

    With a `height` in lines, only the worst streams are shown, as many as fit.
    """

    def __init__(self, answer: Answer, url: str, *, trouble: str | None = None, height: int | None = None):
        self._answer, self._url, self._trouble, self._height = answer, url, trouble, height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.update(height=None)  # else each part would be padded to the height of the screen
        run = self._answer.run
        slowest, why = pace(run)
        rows = _stages(run, slowest)
        stages = _table(STAGE_WIDE, rows)
        wide = console.measure(stages, options=options.update(max_width=1000)).maximum <= options.max_width
        if not wide:
            stages = _table(STAGE, rows)

        def lines(part: RenderableType) -> int:
            return len(console.render_lines(part, options))

        above = Group(*self._header(), "", stages, _legend())
        below = Group("", Text(printable(why), "bold"), "")
        room = None if self._height is None else max(self._height - lines(above) - lines(below), 1)
        yield above
        counted = _counters(run)
        if counted and (room is None or room - lines(counted) >= ROOM_FOR_STREAMS):
            room = None if room is None else room - lines(counted)
            yield counted
        yield below
        yield self._streams(lines, room, wide)

    def _streams(
        self, lines: Callable[[RenderableType], int], room: int | None, wide: bool
    ) -> RenderableType:
        """All streams, those in trouble first; without room for all, the worst and a count of the rest."""
        streams = sorted(self._answer.streams, key=lambda stream: RANKS[stream.state])
        if not streams:
            return Text("no stream is attached; POST /streams attaches one", "dim")

        def table(shown: Sequence[StreamNow]) -> Table:
            rows = [_stream(stream, self._answer.run.window_s) for stream in shown]
            return _table(STREAM_WIDE if wide else STREAM, rows)

        if room is None or (len(streams) < room and lines(table(streams)) <= room):
            return table(streams)
        streams.sort(key=lambda stream: (RANKS[stream.state], -stream.dropped_now, -stream.age_p99_ms))
        shown = min(len(streams) - 1, max(room - 2, 0))  # two lines are for the titles and the number
        while True:
            rest = Text(f"… and {len(streams) - shown} more", "dim")
            part = Group(table(streams[:shown]), rest) if shown else rest
            over = lines(part) - room
            if over <= 0 or not shown:
                return part
            shown = max(shown - over, 0)

    def _header(self) -> Iterator[Text]:
        run = self._answer.run
        yield _joined(
            Text(printable(run.graph), "bold"), f"run {printable(run.run)}", f"up {duration(run.uptime_s)}",
            Text(self._url, "dim"),
        )  # fmt: skip
        attached = [stream for stream in self._answer.streams if stream.state != "ended"]
        running = sum(stream.state == "running" for stream in attached)
        age = [f"age {run.age_p50_ms:.0f}, p99 {run.age_p99_ms:.0f} ms"] if run.fps else []
        yield _joined(
            Text(f"{run.fps:.1f} fps", "bold"), f"{running} of {len(attached)} streams", *age,
            f"{run.cores:.2f} of {run.processors} cores",
            f"{run.memory_mb:.0f} MB",
        )  # fmt: skip
        for problem in run.problems:
            yield Text(printable(problem), "bold yellow")
        if faults := _faults(run):
            yield Text(printable(f"packets are unaccounted for: {name_some(faults)}"), "bold red")
        if self._trouble:
            ago = duration(time.monotonic() - self._answer.at_s)
            yield Text(f"as of {ago} ago, trying again; {self._trouble}", "bold red")


def _faults(run: RunNow) -> list[Fault]:
    places = [(stage.name, stage.unaccounted) for stage in run.stages]
    places += [(f"{edge.producer} → {edge.consumer}", edge.unaccounted) for edge in run.edges]
    return [Fault(place, it.stream, it.kind, it.packets) for place, found in places for it in found]


def pace(run: RunNow) -> tuple[str | None, str]:
    """Name the stage that sets the pace, None if none does, and say why in a sentence. A simple rule."""
    source, *stages = run.stages
    still = [stage for stage in stages if stage.waiting and not stage.packets_in_per_s]
    if still and run.window_s >= STILL_S:
        last = still[-1]  # the stages before it may only wait for it
        waiting = "1 packet waits" if last.waiting == 1 else f"{last.waiting} packets wait"
        return last.name, f"{last.name} has taken nothing for {run.window_s:.0f} s, and {waiting} for it"
    if not any(stage.packets_out_per_s for stage in run.stages):
        return None, "no frames come in"
    # A source waits for frames within its calls: only what it computes is work.
    busy = {source.name: source.computing} | {stage.name: stage.busy for stage in stages}
    busiest = max(run.stages, key=lambda stage: busy[stage.name])
    share = f"{100 * busy[busiest.name]:.0f} % of the time{_scarce_cores(run)}"
    if busy[busiest.name] <= BUSY:
        return None, f"no stage sets the pace; {busiest.name} is busiest, {share}"
    who = "it is" if busiest.workers == 1 else f"its {busiest.workers} workers are"
    return busiest.name, f"{busiest.name} sets the pace: {who} at work {share}"


def _scarce_cores(run: RunNow) -> str:
    """Say so where cores are scarce, since then every stage looks busy."""
    if run.cores > BUSY * run.processors:
        return f", and {run.cores:.1f} of {run.processors} cores are busy with this run"
    if run.load is not None and run.load > CROWDED * run.processors:
        return f"; but other programs want the {run.processors} cores, too (load {run.load:.1f})"
    return ""


def _stages(run: RunNow, slowest: str | None) -> list[Row]:
    source, *others = run.stages
    # Waiting for frames is no work, so it counts as idle.
    spent = Shares(source.computing, source.computing, source.blocked, 1 - source.computing - source.blocked)
    first = _stage(source, spent, run.window_s, marked=source.name == slowest)
    no_queue = dict.fromkeys(("in/s", "batch", "waits", "p95 ms", "p99", "queue"), "")
    rest = [
        _stage(
            stage,
            Shares(stage.busy, stage.computing, stage.blocked, stage.idle),
            run.window_s,
            marked=stage.name == slowest,
        )
        for stage in others
    ]
    return [{**first, **no_queue, "per s": first["out/s"]}, *rest]


def _stage(stage: StageNow, spent: Shares, seconds: float, *, marked: bool) -> Row:
    workers = f" ×{stage.workers}" if stage.workers > 1 else ""
    return {
        "": "▶" if marked else " ",
        "stage": Text(f"{printable(stage.name)}{workers}", "bold" if marked else ""),
        "per s": f"{stage.packets_in_per_s:.1f}",
        "in/s": f"{stage.packets_in_per_s:.1f}",
        "out/s": f"{stage.packets_out_per_s:.1f}",
        "its time": _bar(spent),
        "busy": Text(_percent(spent.busy), "bold" if marked else ""),
        "computes": _percent(spent.computing),
        "blocked": _percent(spent.blocked),
        "batch": f"{stage.mean_batch:.1f}" if stage.mean_batch else "",
        "waits": _ms(stage.wait_p95_ms),
        "p95 ms": _ms(stage.latency_p95_ms),
        "p99": _ms(stage.latency_p99_ms),
        "queue": _queue(stage),
        "drops/s": _drops(sum(stage.dropped_now.values()), seconds),
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
        [] if stream.lost_since_ns is None else [f"for {duration(time.time() - stream.lost_since_ns / 1e9)}"]
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


def _bar(spent: Shares) -> Text:
    """Draw how a stage spends its time. Cumulative shares are rounded, so that the cells add up."""
    bar, cumulative, filled = Text(), 0.0, 0
    for part, _, cell, style in PARTS:
        cumulative += getattr(spent, part)
        cells = round(cumulative * BAR_CELLS) - filled
        bar.append(cell * cells, style)
        filled += cells
    return bar


def _legend() -> Text:
    legend = Text("  ")
    for _, name, cell, style in PARTS:
        legend.append(cell, style).append(f" {name}   ", "dim")
    return legend


def _counters(run: RunNow) -> Text | None:
    """What the operators counted themselves since the run began; None if they counted nothing."""
    counted = [
        f"{stage.name} {event} {n:,}" for stage in run.stages for event, n in stage.counters.items() if n
    ]
    return Text(printable(f"counted: {', '.join(counted)}"), "dim") if counted else None


def _queue(stage: StageNow) -> Text:
    if stage.capacity is None:
        return Text(str(stage.waiting))
    share = min(stage.waiting / max(stage.capacity, 1), 1.0)
    level = QUEUE_LEVELS[math.ceil(share * (len(QUEUE_LEVELS) - 1))]
    return Text(f"{level} {stage.waiting}/{stage.capacity}", "red" if share == 1 else "")


def _drops(packets: int, seconds: float) -> Text:
    return Text(f"{packets / seconds:.1f}" if packets and seconds else "", "red")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _ms(duration: float) -> str:
    return f"{duration:.1f}" if duration < 10 else f"{duration:.0f}"


def _joined(*parts: str | Text) -> Text:
    return Text(" · ").join([Text(part) if isinstance(part, str) else part for part in parts])
