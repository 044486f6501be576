"""The sections of the report on the stages: the graph, their time, their batches, their engines."""

from __future__ import annotations

from tools.profiling.document import Engine, Profile
from tools.profiling.number_format import cpu_ms, figure, percent, shares, work_ms
from tools.profiling.report import charts
from tools.profiling.report.blocks import Part, card, grid, legend, scrolling, table
from tools.profiling.report.drawing import draw_graph
from tools.profiling.report.markup import Child, Html, tag
from tools.profiling.table import lost_at

PERCENTILES = "Dot p50, stroke p95, diamond p99; logarithmic; the figures are p50 / p95 / p99."


def graph(profile: Profile) -> Part:
    """Drawn with its load."""
    return (
        "Graph",
        "Packets go from left to right. The bar in a stage is its time; the wider a line, the more packets "
        "went along it; losses are red, with a minus. A stage whose bar is full holds up those before it.",
        [legend(), scrolling(draw_graph(profile), "the graph")],
    )


def stages(profile: Profile) -> Part:
    """How they spend their time, how long packets wait, and all figures."""
    worst, seconds = profile.verdict.stage, profile.seconds
    spent = {stage.name: shares(stage) for stage in profile.stages}
    work = [(stage.name, work_ms(stage, seconds)) for stage in profile.stages]
    waits = [(s.name, s.wait_p50_ms, s.wait_p95_ms, s.wait_p99_ms) for s in profile.stages if s.wait_p99_ms]
    takes = [(s.name, s.latency_p50_ms, s.latency_p95_ms, s.latency_p99_ms) for s in profile.stages]
    return (
        "Stages",
        "A stage that is hardly ever idle is where to look: if it computes, it needs a smaller model, a "
        "larger batch or more processors; if it waits, look at what for. A long wait in the queue points at "
        "the stage itself, not at those before it.",
        [
            legend(),
            grid(
                card(
                    "Time of each stage",
                    charts.share_bars(spent, "shares of the time", worst),
                    "Of all workers of a stage together.",
                ),
                card(
                    "Work on a packet, ms",
                    charts.part_bars(work, "ms", "work on a packet"),
                    "Time of one worker; a stage with two workers does two packets in it.",
                ),
                card(
                    "Waiting in the queue, ms",
                    charts.ranges(waits, "waiting in the queue", worst),
                    PERCENTILES,
                )
                if waits
                else None,
                card(
                    "In the queue and at work, ms",
                    charts.ranges(takes, "in the queue and at work", worst),
                    PERCENTILES,
                ),
            ),
            _figures(profile),
        ],
    )


def _figures(profile: Profile) -> Html:
    on_gpu = any(s.gpu_ms is not None or s.copied_mb_per_s is not None for s in profile.stages)
    head = [
        "stage", "operator", "workers", "packets/s", "busy", "computing", "waiting", "blocked", "in engines",
        "batch", "cores", "processor ms/packet", "memory MB", "MB/s in", "dropped",
        *(["GPU ms/packet", "copied MB/s"] if on_gpu else []),
    ]  # fmt: skip
    rows: list[list[Child]] = []
    for stage in profile.stages:
        spent = shares(stage)
        rows.append([
            tag("b", stage.name),
            stage.op,
            stage.workers,
            figure(stage.packets_per_s),
            percent(stage.busy),
            percent(spent["computing"]),
            percent(spent["waiting"]),
            percent(stage.blocked),
            percent(stage.engine),
            figure(stage.mean_batch or None, 2),
            figure(stage.cores, 2),
            figure(cpu_ms(stage, profile.seconds), 2),
            figure(stage.memory_mb, 2),
            figure(stage.mb_per_s, 2),
            f"{sum(lost_at(profile, stage.name).values()):,}",
            *([figure(stage.gpu_ms, 2), figure(stage.copied_mb_per_s, 2)] if on_gpu else []),
        ])  # fmt: skip
    names = [stage.name for stage in profile.stages]
    worst = profile.verdict.stage
    return table(head, rows, text=2, marked=names.index(worst) if worst in names else None)


def batches(profile: Profile) -> Part | None:
    """How large they were, where there were any."""
    batching = [stage for stage in profile.stages if any(size > 1 for size in stage.batches)]
    if not batching:
        return None
    return (
        "Batches",
        "How many packets a stage took at once. Mostly full batches mean that a larger maximum could help; "
        "mostly small ones, that packets do not come fast enough to fill them.",
        grid(
            *(
                card(f"{s.name}: {figure(s.mean_batch, 2)} on average", charts.columns(s.batches, s.name))
                for s in batching
            ),
            class_="grid narrow",
        ),
    )


def engines(profile: Profile) -> Part | None:
    """What models take, in the run and alone."""
    if not profile.engines:
        return None
    alone = [alone_ms(profile, engine) for engine in profile.engines]
    bars = [
        (f"{e.stage}: {e.model}", e.ms_per_item, ms) for e, ms in zip(profile.engines, alone, strict=True)
    ]
    head = (
        "stage", "model", "file", "backend", "threads", "calls", "items/frame", "call p50", "call p95",
        "ms/item", "alone", "GPU ms/item",
    )  # fmt: skip
    rows: list[list[Child]] = [
        [
            e.stage,
            e.model,
            e.file,
            e.backend,
            e.threads,
            f"{e.calls:,}",
            figure(e.items_per_frame, 2),
            figure(e.call_p50_ms),
            figure(e.call_p95_ms),
            figure(e.ms_per_item),
            figure(ms),
            figure(e.gpu_ms_per_item),
        ]
        for e, ms in zip(profile.engines, alone, strict=True)
    ]
    return (
        "Engines",
        "What a model takes for one item (a frame, or the crop of one person or animal): in the run, and on "
        "one thread with nothing else running. Much slower in the run means that it shares its processors.",
        [
            card(
                "ms an item: in the run (filled), alone (outlined)",
                charts.pair_bars(bars, "ms an item, in the run and alone"),
                wide=True,
            ),
            table(head, rows, text=4),
        ],
    )


def alone_ms(profile: Profile, engine: Engine) -> float | None:
    """What an engine takes for an item with nothing else running, where that was measured."""
    parts = profile.bound.parts if profile.bound else []
    return next((part.ms for part in parts if part.name == f"{engine.stage}: {engine.model}"), None)
