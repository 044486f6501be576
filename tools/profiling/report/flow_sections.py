"""The sections of the report on what flowed, how old it became, and what the run took of the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tools.profiling.document import Profile
from tools.profiling.number_format import closed_sum, figure, percent
from tools.profiling.report import charts
from tools.profiling.report.blocks import Part, card, grid, table
from tools.profiling.report.flame_view import draw_flame
from tools.profiling.report.markup import Child, tag

STREAMS_DRAWN = 24  # of more, those with the oldest frames; the table has all


def packets(profile: Profile) -> Part:
    """Every one is accounted for."""
    rows: list[list[Child]] = [
        [f"{e.producer} → {e.consumer}", f"{e.in_flight_before:,}", f"{e.received:,}", f"{e.delivered:,}",
         f"{sum(e.dropped.values()):,}", f"{e.in_flight:,}", _reasons(e.dropped)]
        for e in profile.edges
    ]  # fmt: skip
    rows += [
        [f"{s.name} itself", "", "", "", f"{sum(s.dropped.values()):,}", "", _reasons(s.dropped)]
        for s in profile.stages
        if any(s.dropped.values())
    ]
    lost = [[why, f"{n:,}"] for why, n in profile.flow.dropped.items()]
    counted = [[s.name, what, f"{n:,}"] for s in profile.stages for what, n in s.counters.items()]
    head = ("edge", "in flight before", "received", "delivered", "dropped", "in flight", "why")
    return (
        "Packets",
        "Every packet is accounted for. The sum is over the whole run, warm-up and draining included; the "
        "edges are those of the measured time: in flight before + received = delivered + dropped + in "
        "flight.",
        [
            tag("p", closed_sum(profile), class_="sum" if profile.flow.closed else "sum open"),
            table(head, rows),
            grid(
                card("Dropped in the whole run", table(("reason", "packets"), lost)) if lost else None,
                card("Counted by stages", table(("stage", "what", "how often"), counted, text=2))
                if counted
                else None,
            ),
        ],
    )


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{why} {n:,}" for why, n in dropped.items() if n)


def streams(profile: Profile) -> Part | None:
    """How old their frames became."""
    if not profile.streams:
        return None
    shown = list(profile.streams)
    if len(shown) > STREAMS_DRAWN:
        shown = sorted(shown, key=lambda stream: stream.age_p99_ms, reverse=True)[:STREAMS_DRAWN]
    note = "Dot p50, stroke p95, diamond p99; logarithmic."
    if left_out := len(profile.streams) - len(shown):
        note = f"The {len(shown)} streams with the oldest frames; {left_out} more are in the table. {note}"
    ages = [(s.name, s.age_p50_ms, s.age_p95_ms, s.age_p99_ms) for s in shown]
    rows = [
        [s.name, figure(s.fps), figure(s.age_p50_ms), figure(s.age_p95_ms), figure(s.age_p99_ms),
         f"{s.read:,}", f"{s.finished:,}", f"{s.dropped:,}", f"{s.instances:,}"]
        for s in profile.streams
    ]  # fmt: skip
    head = (
        "stream", "fps", "age p50 ms", "age p95 ms", "age p99 ms", "read", "finished", "dropped",
        "instances",
    )  # fmt: skip
    return (
        "Streams",
        "A frame's age is the time from when it entered the graph until the last stage was done with it. "
        "Files are read ahead, so their ages say how much the queues hold; those of cameras must not grow.",
        [card("Ages, ms", charts.ranges(ages, "ages of frames"), note, wide=True), table(head, rows)],
    )


def over_time(profile: Profile) -> Part | None:
    """Frames a second, cores and memory."""
    moments = profile.use.moments
    if len(moments) < 2:
        return None
    at_s = [moment.at_s for moment in moments]
    fps: charts.Lines = {"frames/s": [m.fps for m in moments]}
    cores: charts.Lines = {"this run": [m.cores for m in moments], "all": [m.cores_all for m in moments]}
    memory: charts.Lines = {"memory": [m.memory_mb for m in moments]}
    limit = float(profile.machine.cores)
    return (
        "Over time",
        "A flat line is a run that has settled. Memory that keeps growing is a leak; a dip that all streams "
        "share has one cause, which the trace shows.",
        grid(
            card("Frames/s", charts.over_time(at_s, fps, "frames a second over time")),
            card(
                "Cores kept busy",
                charts.over_time(at_s, cores, "cores over time", limit),
                "Filled: this run. Dotted: all programs. Dashed: all there are.",
            ),
            card("Memory, MB", charts.over_time(at_s, memory, "memory over time")),
            class_="grid thirds",
        ),
    )


def gpus(profile: Profile) -> Part | None:
    """What was used of them, where there are any."""
    if not profile.use.gpus:
        return None
    head = (
        "GPU", "busy", "decoder", "memory MB", "power W", "clock MHz", "J in all", "J/1,000 frames",
        "held back",
    )  # fmt: skip
    rows = [
        [g.name, percent(g.busy), percent(g.decoder), figure(g.memory_mb), figure(g.power_w),
         figure(g.clock_mhz), figure(g.joules), figure(g.joules_per_1000_frames), _throttled(g.throttling)]
        for g in profile.use.gpus
    ]  # fmt: skip
    return (
        "GPU",
        "Busy is the share of the time in which anything ran on it, which may be far from all that it can "
        "do. Held back is the share of the time in which it lowered its clock, and why.",
        table(head, rows),
    )


def _throttled(reasons: Mapping[str, float]) -> str:
    return ", ".join(f"{why} {percent(share)}" for why, share in reasons.items()) or "never"


def flame(profile: Profile) -> Part | None:
    """Processor time by function, where stacks were sampled."""
    if not sum(profile.stacks.values()):
        return None
    kinds: Sequence[tuple[str, str]] = (
        ("stage", "stage or thread"), ("own", "posestream"), ("other", "libraries and Python"),
    )  # fmt: skip
    swatches = [tag("li", tag("i", class_=f"swatch {kind}"), meaning) for kind, meaning in kinds]
    return (
        "Flame graph",
        "Processor time by stage or thread, then by who called whom; a box is as wide as the time that its "
        "function took with all that it called. Waiting is not in it, nor what engines compute in threads of "
        "their own; what is below 0.2 % is not drawn.",
        [draw_flame(profile.stacks), tag("ul", swatches, class_="legend")],
    )
