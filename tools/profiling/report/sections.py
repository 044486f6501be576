"""The sections of the report on one profile, from the verdict to the machine."""

from __future__ import annotations

from collections.abc import Callable

from tools.profiling.compare import Comparison, cells
from tools.profiling.document import Bound, Profile
from tools.profiling.number_format import (
    age_p99_ms,
    count,
    cpu_per_frame_ms,
    dropped,
    figure,
    measured,
    percent,
    when,
)
from tools.profiling.report import charts
from tools.profiling.report.blocks import Part, card, grid, section, table
from tools.profiling.report.flow_sections import flame, gpus, over_time, packets, streams
from tools.profiling.report.markup import Child, Html, tag
from tools.profiling.report.stage_sections import batches, engines, graph, stages
from tools.profiling.table import bound_said


def sections(profile: Profile, comparison: Comparison | None = None) -> list[Html]:
    """All that there is to say of a profile; what it has no figures for is left out."""
    makers: tuple[Callable[[Profile], Part | None], ...] = (
        graph, stages, batches, engines, packets, streams, over_time, gpus, flame, _machine,
    )  # fmt: skip
    parts = [_compared(comparison)] if comparison else []
    parts += [part for make in makers if (part := make(profile))]
    return [_verdict(profile), *(section(*part) for part in parts)]


def _verdict(profile: Profile) -> Html:
    verdict = profile.verdict
    return tag(
        "section",
        tag("h2", "Verdict"),
        tag("p", verdict.said, class_="said"),
        tag("ul", [tag("li", advice) for advice in verdict.advice], class_="advice")
        if verdict.advice
        else None,
        [
            tag(
                "div",
                f"{place.stage} stood still for {percent(place.share)} of its time at ",
                tag("code", place.where),
                tag("pre", place.line.strip()),
                class_="place",
            )
            for place in verdict.places
        ],
        [tag("p", f"⚠ {note}", class_="warning") for note in profile.notes],
        _tiles(profile),
        _bound(profile.bound, profile.fps)
        if profile.bound
        else tag("p", "The bound was not measured: how far this is from the best possible is unknown."),
        data_name="Verdict",
    )


def _tiles(profile: Profile) -> Html:
    bound, use = profile.bound, profile.use
    tiles = (
        ("frames/s", figure(profile.fps), f"{count(profile.frames, 'frame')} in {figure(profile.seconds)} s"),
        (
            "of the bound",
            percent(bound.share) if bound else "–",
            f"of {figure(bound.fps)} frames/s" if bound else "",
        ),
        (
            "processor ms a frame",
            figure(cpu_per_frame_ms(profile)),
            f"{figure(use.cores)} of {count(profile.machine.cores, 'core')} busy",
        ),
        ("age, p99", f"{figure(age_p99_ms(profile))} ms", "of the stream whose frames are oldest"),
        ("dropped", f"{dropped(profile):,}", f"of {profile.flow.read:,} read in the whole run"),
        (
            "memory",
            f"{figure(use.memory_mb)} MB",
            f"{figure(use.memory_before_mb)} MB before the stages were opened",
        ),
    )
    drawn = [
        [tag("span", part, class_=kind) for part, kind in zip(tile, ("what", "value", "note"), strict=True)]
        for tile in tiles
    ]
    return tag("div", [tag("div", tile, class_="tile") for tile in drawn], class_="tiles")


def _bound(bound: Bound, fps: float) -> Child:
    parts = [(part.name, part.ms_per_frame) for part in bound.parts]
    together = ("together", sum(ms for _, ms in parts))
    took = [f"{part.name}: {figure(part.ms)} ms × {figure(part.per_frame, 2)}" for part in bound.parts]
    return grid(
        card(
            "Frames/s: this run and what limits it",
            charts.gauge(fps, bound.fps, bound.limits, bound.cores),
            f"{bound_said(bound, fps)} The dashed line is the bound: no pipeline around these models gets "
            "past it on this machine.",
        ),
        card(
            "What a frame needs at least, ms",
            charts.part_bars([*parts, together], "ms", "the bare work on a frame"),
            f"Each part measured alone, on one thread, times how many a frame has ({'; '.join(took)}).",
        ),
    )


def _compared(comparison: Comparison) -> Part:
    arrows = {"worse": "▼ worse", "better": "▲ better", "same": ""}
    rows: list[list[Child]] = [
        [*cells(row)[:-1], tag("span", arrows[row.change], class_=row.change)] for row in comparison.rows
    ]
    head = ("where", "what", "before", "now", "difference", "")
    return (
        "Against the baseline",
        f"What differs from {when(comparison.baseline)} by more than {100 * comparison.tolerance:g} % is "
        "said to be better or worse, unless it hardly matters for a frame.",
        [
            tag("p", tag("code", comparison.baseline.command)),
            tag("p", comparison.said, class_="said small"),
            [tag("p", f"⚠ {warning}", class_="warning") for warning in comparison.warnings],
            table(head, rows, text=2),
        ],
    )


def _machine(profile: Profile) -> Part:
    machine, use = profile.machine, profile.use
    told = {
        "command": tag("code", profile.command),
        "measured": f"{when(profile)}, {measured(profile)}",
        "processor": f"{machine.processor}, {count(machine.cores, 'core')}, {figure(machine.memory_mb)} MB "
        "of memory",
        "GPUs": f"{', '.join(machine.gpus)}, driver {machine.driver}" if machine.gpus else "none",
        "system": f"{machine.system}, Python {machine.python}",
        "versions": ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        "commit": machine.commit or "not a checkout",
        "cores busy": f"{figure(use.cores)} by this run",
    }
    if use.cores_all is not None:
        told["cores busy"] += f", {figure(use.cores_all)} by all programs"
    if use.starved is not None:
        told["no processor"] = f"for {figure(use.starved, 2)} threads that were ready to run, on average"
    if use.lock_wait_ms is not None:
        told["Python's lock"] = f"a thread waits {figure(use.lock_wait_ms, 2)} ms for it"
    return (
        "Machine",
        "Compare figures of the same machine and the same versions only; cores that other programs kept "
        "busy were not there for this run.",
        tag("dl", [[tag("dt", name), tag("dd", value)] for name, value in told.items()]),
    )
