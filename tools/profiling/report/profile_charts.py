"""The charts of the report on one profile: which of its figures each one shows."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from tools.profiling.document import Bound, Engine, Profile, Stage
from tools.profiling.number_format import shares, work_ms
from tools.profiling.report import charts

STREAMS_DRAWN = 24  # of more, those with the oldest frames; the table has all


def frames_per_s(bound: Bound, fps: float) -> Markup:
    """This run's frames/s against what limits them."""
    return charts.gauge(fps, bound.fps, bound.limits, bound.cores)


def least_work(bound: Bound) -> Markup:
    """The bare work on a frame, by its parts and together."""
    parts = [(part.name, part.ms_per_frame) for part in bound.parts]
    together = ("together", sum(ms for _, ms in parts))
    return charts.part_bars([*parts, together], "ms", "the bare work on a frame")


def stage_times(profile: Profile) -> Markup:
    """How each stage spent its time."""
    spent = {stage.name: shares(stage) for stage in profile.stages}
    return charts.share_bars(spent, "shares of the time", profile.verdict.stage)


def stage_work(profile: Profile) -> Markup:
    """Work of each stage on a packet."""
    work = [(stage.name, work_ms(stage, profile.seconds)) for stage in profile.stages]
    return charts.part_bars(work, "ms", "work on a packet")


def queue_times(profile: Profile) -> Markup | None:
    """How long packets waited in the queue of each stage; None where none had to."""
    waits = [(s.name, s.wait_p50_ms, s.wait_p95_ms, s.wait_p99_ms) for s in profile.stages if s.wait_p99_ms]
    return charts.ranges(waits, "waiting in the queue", profile.verdict.stage) if waits else None


def latencies(profile: Profile) -> Markup:
    """How long packets were in the queue and at work, by stage."""
    takes = [(s.name, s.latency_p50_ms, s.latency_p95_ms, s.latency_p99_ms) for s in profile.stages]
    return charts.ranges(takes, "in the queue and at work", profile.verdict.stage)


def batch_sizes(profile: Profile) -> Iterator[tuple[Stage, Markup]]:
    """The sizes of batches, of each stage that had any larger than one packet."""
    for stage in profile.stages:
        if any(size > 1 for size in stage.batches):
            yield stage, charts.columns(stage.batches, stage.name)


def engine_times(profile: Profile) -> Markup:
    """Each engine in the run and alone."""
    bars = [(f"{e.stage}: {e.model}", e.ms_per_item, alone_ms(profile, e)) for e in profile.engines]
    return charts.pair_bars(bars, "ms an item, in the run and alone")


def alone_ms(profile: Profile, engine: Engine) -> float | None:
    """How long an engine takes for an item with nothing else running; None where that was not measured."""
    parts = profile.bound.parts if profile.bound else []
    return next((part.ms for part in parts if part.name == f"{engine.stage}: {engine.model}"), None)


def frame_ages(profile: Profile) -> tuple[Markup, int]:
    """How old the frames of each stream became, and how many streams are not drawn."""
    shown = list(profile.streams)
    if len(shown) > STREAMS_DRAWN:
        shown = sorted(shown, key=lambda stream: stream.age_p99_ms, reverse=True)[:STREAMS_DRAWN]
    ages = [(s.name, s.age_p50_ms, s.age_p95_ms, s.age_p99_ms) for s in shown]
    return charts.ranges(ages, "ages of frames"), len(profile.streams) - len(shown)


def over_time(profile: Profile) -> tuple[Markup, Markup, Markup]:
    """Frames/s, cores and memory over the measured time."""
    moments = profile.use.moments
    at_s = [moment.at_s for moment in moments]
    fps: charts.Lines = {"frames/s": [m.fps for m in moments]}
    cores: charts.Lines = {"this run": [m.cores for m in moments], "all": [m.cores_all for m in moments]}
    memory: charts.Lines = {"memory": [m.memory_mb for m in moments]}
    return (
        charts.over_time(at_s, fps, "frames a second over time"),
        charts.over_time(at_s, cores, "cores over time", float(profile.machine.cores)),
        charts.over_time(at_s, memory, "memory over time"),
    )
