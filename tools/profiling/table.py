"""A profile in the terminal, in 80 columns: first what limits the run, then where the time goes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table, box

from tools.profiling.document import Bound, Profile, Verdict
from tools.profiling.number_format import (
    age_p99_ms,
    best,
    closed_sum,
    count,
    cpu_per_frame_ms,
    figure,
    figures,
    measured,
    percent,
    shares,
    work_ms,
)

STREAMS_SHOWN = 16  # if there are more, those with the oldest frames
TEXT_COLUMNS = {"dropped, why", "limited by", ""}  # hold text wherever they stand; other columns hold numbers


def print_profile(profile: Profile, console: Console) -> None:
    """Print what fits a terminal; the JSON and the HTML report hold the rest."""
    _print_verdict(profile, console)
    for heading, table in (
        ("stages: how they spend their time", _times(profile)),
        ("stages: how long a packet waits and takes, ms", _latencies(profile)),
        ("stages: what they use", _costs(profile)),
        ("batches", _batches(profile)),
        ("engines", _engines(profile)),
        (_streams_heading(profile), _streams(profile)),
        ("GPUs", _gpus(profile)),
    ):
        if table.row_count:
            say(console, f"\n{heading}", style="bold")
            console.print(table)
    _print_flow(profile, console)
    _print_machine(profile, console)


def print_sweep(profiles: Sequence[Profile], console: Console) -> None:
    """Print a row for each point of a sweep; the one with the most frames/s is marked `best`."""
    first, winner = profiles[0], best(list(profiles))
    say(console, f"{first.graph}: {count(len(profiles), 'point')}", style="bold")
    swept = list(dict.fromkeys(name for profile in profiles for name in profile.settings))
    columns = ("fps", "cores", "ms/frame", "age p99 ms", "of bound", "limited by", "")
    table = figures_table(*swept, *columns, text=len(swept))
    for profile in profiles:
        table.add_row(
            *(escape(profile.settings.get(name, "")) for name in swept),
            figure(profile.fps),
            figure(profile.use.cores, 2),
            figure(cpu_per_frame_ms(profile)),
            figure(age_p99_ms(profile), 2),
            percent(profile.bound.share) if profile.bound else "",
            escape(limited_by(profile.verdict)),
            "best" if profile is winner else "",
            style="bold" if profile is winner else None,
        )
    console.print(table)
    say(console, "ms/frame: processor time of all processes per frame", style="dim")


def limited_by(verdict: Verdict) -> str:
    """Name the limit in a word or two."""
    if verdict.kind == "processor" and verdict.stage:
        return f"processor, {verdict.stage}"
    return verdict.stage or verdict.kind


def bound_said(bound: Bound, fps: float) -> str:
    """Describe the bound: the run's share of it, and the limits of which it is the lowest."""
    limits = sorted(bound.limits.items(), key=lambda item: item[1])
    listed = ", ".join(f"{name} {figure(value)}" for name, value in limits)
    return (
        f"{figure(fps)} frames/s are {percent(bound.share)} of the bound of {figure(bound.fps)} frames/s, "
        f"the lowest of these limits: {listed}."
    )


def _print_verdict(profile: Profile, console: Console) -> None:
    verdict, bound = profile.verdict, profile.bound
    say(console, verdict.said, style="bold")
    for note in profile.notes:
        say(console, f"note: {note}", style="yellow")
    for advice in verdict.advice:
        say(console, f"  → {advice}")
    for place in verdict.places:
        say(console, f"  {place.stage} stood still at {place.where} for {percent(place.share)} of its time:")
        say(console, f"    {place.line}")
    if bound:
        say(console, bound_said(bound, profile.fps))
        table = figures_table("measured alone", "ms/item", "items/frame", "ms/frame")
        for part in bound.parts:
            table.add_row(
                escape(part.name), figure(part.ms), figure(part.per_frame, 2), figure(part.ms_per_frame)
            )
        if bound.parts:
            table.add_row("together", "", "", figure(sum(part.ms_per_frame for part in bound.parts)))
        console.print(table)
    say(
        console,
        f"{profile.graph}: {measured(profile)}",
    )


def _times(profile: Profile) -> Table:
    table = figures_table(
        "stage",
        "workers",
        "packets/s",
        "busy",
        "computing",
        "waiting",
        "blocked",
        "engine",
    )
    for stage in profile.stages:
        spent = shares(stage)
        limits = profile.verdict.stage == stage.name
        table.add_row(
            escape(stage.name),
            str(stage.workers),
            figure(stage.packets_per_s),
            percent(stage.busy),
            percent(spent["computing"]),
            percent(spent["waiting"]),
            percent(stage.blocked),
            percent(stage.engine),
            style="bold" if limits else None,
        )
    return table


def _latencies(profile: Profile) -> Table:
    table = figures_table("stage", "queue p50 / p95", "queue + work p50 / p95 / p99", "batch", "work/packet")
    for stage in profile.stages:
        table.add_row(
            escape(stage.name),
            figures(stage.wait_p50_ms, stage.wait_p95_ms),
            figures(stage.latency_p50_ms, stage.latency_p95_ms, stage.latency_p99_ms),
            figure(stage.mean_batch or None, 2),
            figure(work_ms(stage, profile.seconds), 2),
        )
    return table


def _costs(profile: Profile) -> Table:
    on_gpu = any(s.gpu_ms is not None or s.copied_mb_per_s is not None for s in profile.stages)
    table = figures_table(
        "stage",
        "cores",
        "memory MB",
        "MB/s in",
        *(("copied MB/s", "GPU ms") * on_gpu),
        "dropped, why",
    )
    for stage in profile.stages:
        table.add_row(
            escape(stage.name),
            figure(stage.cores, 2),
            figure(stage.memory_mb),
            figure(stage.mb_per_s),
            *((figure(stage.copied_mb_per_s), figure(stage.gpu_ms, 2)) * on_gpu),
            escape(", ".join(f"{n:,} {why}" for why, n in lost_at(profile, stage.name).items())),
        )
    return table


def lost_at(profile: Profile, stage: str) -> dict[str, int]:
    """Packets that a stage dropped or set aside, and those dropped on the edges to it, by reason."""
    lost: dict[str, int] = {}
    dropped = [s.dropped for s in profile.stages if s.name == stage]
    for reasons in dropped + [e.dropped for e in profile.edges if e.consumer == stage]:
        for why, n in reasons.items():
            lost[why] = lost.get(why, 0) + n
    return {why: n for why, n in lost.items() if n}


def _batches(profile: Profile) -> Table:
    table = _plain()
    table.add_column("stage", overflow="fold")
    table.add_column("size: share of its calls", overflow="fold")
    for stage in profile.stages:
        if any(size > 1 for size in stage.batches):
            calls = sum(stage.batches.values())
            sizes = (f"{size}: {percent(n / calls)}" for size, n in sorted(stage.batches.items()))
            table.add_row(escape(stage.name), "   ".join(sizes))
    return table


def _engines(profile: Profile) -> Table:
    table = figures_table(
        "stage",
        "model",
        "backend",
        "thr.",
        "items/frame",
        "ms/item",
        "call p50 / p95",
        text=3,
    )
    for engine in profile.engines:
        table.add_row(
            escape(engine.stage),
            escape(engine.model),
            escape(engine.backend),
            str(engine.threads),
            figure(engine.items_per_frame, 2),
            figure(engine.ms_per_item),
            figures(engine.call_p50_ms, engine.call_p95_ms),
        )
    return table


def _streams_heading(profile: Profile) -> str:
    n = len(profile.streams)
    return f"streams: the {STREAMS_SHOWN} with the oldest frames, of {n}" if n > STREAMS_SHOWN else "streams"


def _streams(profile: Profile) -> Table:
    table = figures_table("stream", "fps", "age p50 / p95 / p99 ms", "read", "finished", "dropped")
    oldest = sorted(profile.streams, key=lambda stream: stream.age_p99_ms, reverse=True)[:STREAMS_SHOWN]
    for stream in profile.streams if len(profile.streams) <= STREAMS_SHOWN else oldest:
        table.add_row(
            escape(stream.name),
            figure(stream.fps),
            figures(stream.age_p50_ms, stream.age_p95_ms, stream.age_p99_ms),
            f"{stream.read:,}",
            f"{stream.finished:,}",
            f"{stream.dropped:,}",
        )
    return table


def _gpus(profile: Profile) -> Table:
    table = figures_table("GPU", "busy", "decoder", "memory MB", "W", "MHz", "J/1,000 frames")
    for gpu in profile.use.gpus:
        table.add_row(
            escape(gpu.name),
            percent(gpu.busy),
            percent(gpu.decoder),
            figure(gpu.memory_mb),
            figure(gpu.power_w),
            figure(gpu.clock_mhz),
            figure(gpu.joules_per_1000_frames),
        )
    return table


def _print_flow(profile: Profile, console: Console) -> None:
    say(console, f"\nwhole run: {closed_sum(profile)}", style=None if profile.flow.closed else "bold red")
    for why, n in profile.flow.dropped.items():
        say(console, f"  dropped: {why}: {n:,}")
    for stage in profile.stages:
        for what, n in stage.counters.items():
            say(console, f"  {stage.name}: {what}: {n:,}")


def _print_machine(profile: Profile, console: Console) -> None:
    use, machine = profile.use, profile.machine
    summary = f"the run kept {figure(use.cores)} of {machine.cores} cores busy"
    if use.cores_all is not None:
        summary += f", all programs together {figure(use.cores_all)}"
    summary += f"; memory {figure(use.memory_mb)} MB, {figure(use.memory_before_mb)} MB before it began"
    if use.lock_wait_ms is not None:
        summary += f"; a thread waits {figure(use.lock_wait_ms, 2)} ms for Python's interpreter lock"
    say(console, summary)
    for gpu in use.gpus:
        for why, share in gpu.throttling.items():
            say(console, f"{gpu.name} was throttled ({why}) for {percent(share)} of the time")
    say(console, f"{machine.processor}, {machine.system}, Python {machine.python}", style="dim")


def figures_table(*columns: str, text: int = 1) -> Table:
    """Make a table whose first `text` columns hold text, which may be folded, and the others numbers."""
    table = _plain()
    for n, name in enumerate(columns):
        is_text = n < text or name in TEXT_COLUMNS
        table.add_column(name, overflow="fold", justify="left" if is_text else "right", no_wrap=not is_text)
    return table


def _plain() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))


def say(console: Console, line: str, style: str | None = None) -> None:
    """Print a line without interpreting markup in it; the terminal breaks it."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
