"""Compare two profiles of the same graph: what became better or worse beyond a tolerance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console
from rich.markup import escape

from pipeline.errors import ConfigError
from tools.profiling.document import Engine, Profile, Stage
from tools.profiling.number_format import age_p99_ms, count, cpu_ms, cpu_per_frame_ms, figure, work_ms
from tools.profiling.table import figures_table, lost_at, say

PERCENTILE_TOLERANCE = 0.13  # histogram buckets are up to an eighth wide: smaller changes cannot be seen
SMALL = 0.01  # share of a frame's work, or of the frames: smaller changes do not matter
RUN = "run"

Change = Literal["better", "worse", "same"]


@dataclass(frozen=True)
class Row:
    """One measured value before and now."""

    where: str  # the run, a stage, an engine
    what: str  # the value, with its unit
    before: float
    now: float
    change: Change

    @property
    def difference(self) -> float | None:
        """The change relative to before, 0.1 for a tenth more; None if it was 0 before."""
        return self.now / self.before - 1 if self.before else None


@dataclass(frozen=True)
class Comparison:
    """What changed; `warnings` say in a line each why the two profiles may not be comparable."""

    baseline: Profile
    now: Profile
    tolerance: float
    rows: list[Row]
    warnings: list[str] = field(default_factory=list)

    @property
    def worse(self) -> bool:
        """Whether any value became worse beyond the tolerance."""
        return any(row.change == "worse" for row in self.rows)

    @property
    def said(self) -> str:
        """The result in a sentence."""
        beyond = f"by more than {100 * self.tolerance:g} %"
        worse = [f"{row.where} {row.what}" for row in self.rows if row.change == "worse"]
        better = sum(row.change == "better" for row in self.rows)
        if worse:
            some = ", ".join(worse[:3]) + (f" and {len(worse) - 3} more" if len(worse) > 3 else "")
            return f"Worse {beyond}: {some}."
        if better:
            return f"Nothing is worse {beyond}, and {better} of {len(self.rows)} values are better."
        return f"Nothing changed {beyond}."


def compare(baseline: Profile, now: Profile, tolerance: float) -> Comparison:
    """Compare a profile with a baseline; `tolerance` is relative, 0.05 allows 5 %.

    Raises:
        ConfigError: they are of different graphs, or one is of live sources and the other of files.
    """
    if baseline.graph != now.graph:
        raise ConfigError(
            f"the baseline is a profile of graph {baseline.graph!r}, this one of {now.graph!r}; "
            "compare profiles of the same graph"
        )
    if baseline.live != now.live:
        kinds = ["live sources" if profile.live else "files" for profile in (baseline, now)]
        raise ConfigError(
            f"the baseline is a profile of {kinds[0]}, this one of {kinds[1]}: their rates differ; "
            "compare profiles of the same sources"
        )
    rows = [*_run_rows(baseline, now, tolerance), *_stage_rows(baseline, now, tolerance)]
    rows += [*_engine_rows(baseline, now, tolerance), *_drop_rows(baseline, now, tolerance)]
    return Comparison(baseline, now, tolerance, rows, list(_warnings(baseline, now, tolerance)))


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the warnings, the sentence, and a row for each value of the run and each that changed."""
    for warning in comparison.warnings:
        say(console, f"warning: {warning}", style="yellow")
    say(console, comparison.said, style="bold red" if comparison.worse else "bold")
    table = figures_table("where", "what", "before", "now", "difference", "", text=2)
    shown = [row for row in comparison.rows if row.where == RUN or row.change != "same"]
    for row in shown:
        style = {"worse": "red", "better": "green", "same": None}[row.change]
        table.add_row(*(escape(cell) for cell in cells(row)), style=style)
    console.print(table)
    if left := len(comparison.rows) - len(shown):
        say(console, f"{count(left, 'more value')} changed too little to matter", style="dim")


def cells(row: Row) -> tuple[str, str, str, str, str, str]:
    """Return the cells of a row: where, what, before, now, difference, better or worse."""
    difference = "new" if row.difference is None else f"{100 * row.difference:+.1f} %"
    if not row.before and not row.now:
        difference = ""
    change = "" if row.change == "same" else row.change
    return row.where, row.what, figure(row.before), figure(row.now), difference, change


def _judge(before: float, now: float, tolerance: float, *, more_is_better: bool = False) -> Change:
    if abs(now - before) <= tolerance * abs(before) or (not before and not now):
        return "same"
    return "better" if (now > before) == more_is_better else "worse"


def _run_rows(baseline: Profile, now: Profile, tolerance: float) -> Iterator[Row]:
    def row(what: str, before: float, after: float, allowed: float, *, more_is_better: bool = False) -> Row:
        judged = _judge(before, after, allowed, more_is_better=more_is_better)
        return Row(RUN, what, before, after, judged)

    yield row("frames/s", baseline.fps, now.fps, tolerance, more_is_better=True)
    if baseline.bound and now.bound:
        share = (100 * baseline.bound.share, 100 * now.bound.share)
        allowed = float("inf") if _bound_moved(baseline, now, tolerance) else tolerance
        yield row("% of the bound", *share, allowed, more_is_better=True)
    yield row("processor ms/frame", cpu_per_frame_ms(baseline), cpu_per_frame_ms(now), tolerance)
    yield row("memory MB", baseline.use.memory_mb, now.use.memory_mb, tolerance)
    ages = age_p99_ms(baseline), age_p99_ms(now)
    yield row("age p99 ms", *ages, max(tolerance, PERCENTILE_TOLERANCE))


def _bound_moved(baseline: Profile, now: Profile, tolerance: float) -> bool:
    """Whether models and decoding alone became faster or slower: then shares of it say nothing of the run."""
    if not baseline.bound or not now.bound:
        return False
    return _judge(baseline.bound.fps, now.bound.fps, tolerance) != "same"


def _stage_rows(baseline: Profile, now: Profile, tolerance: float) -> Iterator[Row]:
    known, small = {stage.name: stage for stage in baseline.stages}, _small_ms(baseline)
    for stage in now.stages:
        before = known.get(stage.name)
        if before is None:
            continue
        frames = _packets_a_frame(now, stage)
        for what, of in (("work ms/packet", work_ms), ("processor ms/packet", cpu_ms)):
            times = of(before, baseline.seconds), of(stage, now.seconds)
            matters = abs(times[1] - times[0]) * frames > small
            yield Row(stage.name, what, *times, _judge(*times, tolerance) if matters else "same")


def _engine_rows(baseline: Profile, now: Profile, tolerance: float) -> Iterator[Row]:
    known, small = {(engine.stage, engine.model): engine for engine in baseline.engines}, _small_ms(baseline)
    for engine in now.engines:
        before = known.get((engine.stage, engine.model))
        if before and before.items and engine.items:
            times = before.ms_per_item, engine.ms_per_item
            matters = abs(times[1] - times[0]) * engine.items_per_frame > small
            judged = _judge(*times, tolerance) if matters else "same"
            yield Row(f"{engine.stage}: {engine.model}", "engine ms/item", *times, judged)


def _small_ms(profile: Profile) -> float:
    """The smallest change per frame that matters, in ms: microseconds more in a tiny stage are noise."""
    per_frame = (work_ms(s, profile.seconds) * _packets_a_frame(profile, s) for s in profile.stages)
    return SMALL * sum(per_frame)


def _packets_a_frame(profile: Profile, stage: Stage) -> float:
    return (stage.packets_in or stage.packets_out) / max(profile.frames, 1)


def _drop_rows(baseline: Profile, now: Profile, tolerance: float) -> Iterator[Row]:
    """Drops in % of the frames read, by stage and reason; drops for a new reason always matter."""
    for name in (stage.name for stage in now.stages):
        lost = [lost_at(profile, name) for profile in (baseline, now)]
        for why in dict.fromkeys([*lost[0], *lost[1]]):
            before, after = (
                100 * reasons.get(why, 0) / max(sum(stream.read for stream in profile.streams), 1)
                for reasons, profile in zip(lost, (baseline, now), strict=True)
            )
            matters = not before or abs(after - before) > 100 * SMALL
            judged = _judge(before, after, tolerance) if matters else "same"
            yield Row(name, f"% dropped: {why}", before, after, judged)


def _warnings(baseline: Profile, now: Profile, tolerance: float) -> Iterator[str]:
    for what, of in (
        ("stages", lambda p: ", ".join(stage.name for stage in p.stages)),
        ("settings", lambda p: " ".join(f"{k}={v}" for k, v in sorted(p.settings.items())) or "none"),
        ("streams", lambda p: str(p.streams_wanted)),
        ("processes", lambda p: str(p.processes)),
        ("workers", lambda p: ", ".join(f"{stage.name} {stage.workers}" for stage in p.stages)),
        ("engines", lambda p: ", ".join(_described(engine) for engine in p.engines) or "none"),
        (
            "machine",
            lambda p: f"{p.machine.processor}, {p.machine.cores} cores, {p.machine.memory_mb:,.0f} MB",
        ),
        ("system", lambda p: f"{p.machine.system}, Python {p.machine.python}"),
        ("GPUs", lambda p: f"{', '.join(p.machine.gpus) or 'none'}, driver {p.machine.driver or 'none'}"),
    ):
        before, after = of(baseline), of(now)
        if before != after:
            yield f"other {what}: {before} before, {after} now"
    versions = baseline.machine.versions, now.machine.versions
    others = [name for name in sorted({**versions[0], **versions[1]})
              if versions[0].get(name) != versions[1].get(name)]  # fmt: skip
    if others:
        changed = (
            f"{n} {versions[0].get(n, 'none')} before, {versions[1].get(n, 'none')} now" for n in others
        )
        yield f"other versions: {'; '.join(changed)}"
    if baseline.bound and now.bound and _bound_moved(baseline, now, tolerance):
        yield (
            f"the bound itself was {figure(baseline.bound.fps)} frames/s before, {figure(now.bound.fps)} "
            "now; shares of the bound are not judged"
        )
    for profile, when in ((baseline, "baseline"), (now, "run")):
        use = profile.use
        if use.cores_all is not None and use.cores_all - use.cores > 0.1 * profile.machine.cores:
            yield (
                f"other programs kept {use.cores_all - use.cores:.1f} of {profile.machine.cores} cores busy "
                f"during the {when}; measure on an idle machine"
            )


def _described(engine: Engine) -> str:
    return f"{engine.stage} {engine.model} by {engine.backend}, {engine.threads} threads"
