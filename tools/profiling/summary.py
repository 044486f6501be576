"""Sums up what was seen of a run: the document of a profile, from counted figures and recorded calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.graph import Graph
from pipeline.measurement.stats import EdgeStats, RunStats, StageStats
from tools.profiling.bounds import Decoded, Lone, bound
from tools.profiling.document import Bound, Edge, Engine, Place, Profile, Stage, Stream, Use
from tools.profiling.flow import flow_of
from tools.profiling.machine.hardware import this_machine
from tools.profiling.measurements import Measured
from tools.profiling.recording.log import logs
from tools.profiling.recording.recorded import Recorded, read_recorded
from tools.profiling.settings import Settings
from tools.profiling.verdict import judge
from tools.views import fill

MB = 1e6
APART = 0.05  # of the frames; less is what lies between the stages


@dataclass(frozen=True)
class Window:
    """What was measured: the figures at its beginning and at its end, and what was used in it."""

    start_ns: int  # monotonic
    end_ns: int
    before: RunStats
    after: RunStats
    use: Use


def write_up(
    settings: Settings,
    graph: Graph,
    sources: Mapping[str, str],
    window: Window,
    final: RunStats,
    folder: Path,
    *,
    lone: Lone,
    notes: Sequence[str],
) -> Profile:
    """The profile of a run that has ended with the figures `final`; its recorder wrote to `folder`.

    With `settings.bound`, models and decoding are measured alone now.
    """
    recorded = read_recorded(folder).between(window.start_ns, window.end_ns)
    stats = window.after.since(window.before)
    seconds, frames, machine = stats.seconds, stats.finished, this_machine()
    fps = stats.fps
    processes = len(logs(folder))
    use = window.use.model_copy(update={"lock_wait_ms": recorded.lock_wait_ms})
    edges = [fill(Edge, edge) for edge in stats.edges]
    stages = [_stage(graph, stage, recorded, held_up=_held_up(stage, stats.edges)) for stage in stats.stages]
    engines = _engines(recorded, stages)
    measured = Measured(
        graph=graph,
        stages=stages,
        edges=edges,
        engines=engines,
        use=use,
        cores=machine.cores,
        live=settings.live,
        streams=len(sources),
        processes=processes,
        fps=fps,
        places=_places(recorded, stages, seconds),
    )
    best = None
    if settings.bound and frames and not lone.ended:
        best = _bound(measured, recorded, stats, sources, lone)
    return Profile(
        command=settings.command,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        graph=graph.name,
        settings=dict(settings.swept),
        streams_wanted=len(sources),
        live=settings.live,
        processes=processes,
        warmup_s=settings.warmup_s,
        seconds=seconds,
        frames=frames,
        fps=fps,
        flow=flow_of(graph, final),
        verdict=judge(measured),
        bound=best,
        use=use,
        machine=machine,
        stages=stages,
        engines=engines,
        edges=edges,
        streams=[fill(Stream, stream) for stream in stats.streams],
        notes=[*notes, *_ends_apart(graph, stages), *_beyond(best)],
        stacks=dict(recorded.stacks),
    )


def _bound(
    measured: Measured, recorded: Recorded, stats: RunStats, sources: Mapping[str, str], lone: Lone
) -> Bound | None:
    read = {stream.name: stream.read for stream in stats.streams}
    return bound(
        measured.graph,
        measured.engines,
        {(key.stage, key.model): calls.sizes for key, calls in recorded.engines.items()},
        [Decoded(uri, read.get(name, 0)) for name, uri in sources.items()],
        live=measured.live,
        fps=measured.fps,
        seconds=stats.seconds,
        cores=measured.cores,
        lone=lone,
    )


def _beyond(best: Bound | None) -> list[str]:
    """A bound cannot be beaten: what it is made of was not measured alone."""
    if best is None or best.share <= 1 + APART:
        return []
    return ["it is faster than its bound, so others took processors while that was measured: measure again"]


def _ends_apart(graph: Graph, stages: Sequence[Stage]) -> list[str]:
    """Where a branch loses frames, what `frames/s` counts is not what the others finished."""
    ends = {stage.name: stage.packets_in for stage in stages if not graph.consumers(graph.node(stage.name))}
    if max(ends.values()) - min(ends.values()) <= APART * max(ends.values()):
        return []
    each = ", ".join(f"{name} {packets}" for name, packets in ends.items())
    return [f"the last stages took different numbers of frames ({each}); those that left all of them count"]


def _stage(graph: Graph, stats: StageStats, recorded: Recorded, *, held_up: bool) -> Stage:
    """One stage: what it counted itself, and what the recorder saw of its calls."""
    node, seconds = graph.node(stats.name), stats.seconds
    worker_ms = 1e3 * seconds * max(stats.workers, 1)
    shares = stats.shares(busy_at_least=_stood_still_ms(recorded, stats.name) / worker_ms, held_up=held_up)
    calls = [calls for key, calls in recorded.engines.items() if key.stage == stats.name]
    packets = stats.packets_in if node.after else stats.packets_out
    device_ms = [one.device_ms for one in calls if one.device_ms is not None]
    copied = [one.copied for one in calls if one.copied is not None]
    return fill(
        Stage,
        shares,
        stats,
        op=node.op,
        packets_per_s=packets / seconds,
        cores=stats.cpu,
        engine=min(sum(one.ms for one in calls) / worker_ms, shares.busy),
        gpu_ms=sum(device_ms) / packets if device_ms and packets else None,
        memory_mb=recorded.memory_mb.get(stats.name),
        mb_per_s=recorded.payload.get(stats.name, 0) / MB / seconds,
        copied_mb_per_s=sum(copied) / MB / seconds if copied else None,
    )


def _held_up(stats: StageStats, edges: Sequence[EdgeStats]) -> bool:
    """Whether the stage waited for room behind it all of the time. A wait is counted only when it ends."""
    inputs = [edge for edge in edges if edge.consumer == stats.name]
    outputs = [edge for edge in edges if edge.producer == stats.name]
    nothing_taken = all(edge.in_flight_before and edge.in_flight and not edge.delivered for edge in inputs)
    return nothing_taken and not stats.packets_out and any(edge.in_flight for edge in outputs)


def _stood_still_ms(recorded: Recorded, stage: str) -> float:
    """How long the sampler saw a stage stand still inside its calls, in ms over all of its workers."""
    return sum(ms for standing, ms in recorded.standing.items() if standing.stage == stage)


def _places(recorded: Recorded, stages: Sequence[Stage], seconds: float) -> list[Place]:
    workers = {stage.name: max(stage.workers, 1) for stage in stages}
    return [
        Place(stage=at.stage, where=at.where, line=at.line, share=ms / (1e3 * seconds * workers[at.stage]))
        for at, ms in recorded.standing.items()
        if at.stage in workers
    ]


def _engines(recorded: Recorded, stages: Sequence[Stage]) -> list[Engine]:
    """As they were used; a frame counts for a stage that has taken it, whatever became of it later."""
    taken = {stage.name: max(stage.packets_in or stage.packets_out, 1) for stage in stages}
    return [
        Engine(
            stage=key.stage,
            model=key.model,
            file=key.file,
            backend=key.backend,
            threads=key.threads,
            calls=calls.calls,
            items=calls.items,
            items_per_frame=calls.items / taken[key.stage],
            call_p50_ms=calls.took.percentile_ms(50),
            call_p95_ms=calls.took.percentile_ms(95),
            ms_per_item=calls.ms / max(calls.items, 1),
            gpu_ms_per_item=None if calls.device_ms is None else calls.device_ms / max(calls.items, 1),
        )
        for key, calls in recorded.engines.items()
    ]
