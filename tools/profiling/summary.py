"""Writes the document of a profile, from the snapshots of a run and the calls that were recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.graph import Graph
from pipeline.measurement.run_stats import RunStats
from pipeline.measurement.stage_stats import EdgeStats, StageStats
from tools.profiling.bounds import Decoded, IsolatedBench, bound
from tools.profiling.document import Bound, Edge, Engine, Place, Profile, Stage, Stream, Use
from tools.profiling.flow import flow_of
from tools.profiling.machine.hardware import this_machine
from tools.profiling.measurements import Measured
from tools.profiling.recording.event_log import event_logs
from tools.profiling.recording.recorded import Recorded, read_recorded
from tools.profiling.settings import Settings
from tools.profiling.verdict import judge
from tools.views import fill

MB = 1e6
APART = 0.05  # smaller differences are frames on their way between the stages, or noise


@dataclass(frozen=True)
class Window:
    """What was measured: the snapshots at its beginning and at its end, and the use of the machine."""

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
    isolated: IsolatedBench,
    notes: Sequence[str],
) -> Profile:
    """Write the profile of a run that ended with the snapshot `final`; its recorder wrote to `folder`.

    With `settings.bound`, models and decoding are now measured in isolation.
    """
    recorded = read_recorded(folder).between(window.start_ns, window.end_ns)
    stats = window.after.since(window.before)
    seconds, frames, machine = stats.seconds, stats.finished, this_machine()
    fps = stats.fps
    processes = len(event_logs(folder))
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
    if settings.bound and frames and not isolated.stopped:
        best = _bound(measured, recorded, stats, sources, isolated)
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
        notes=[*notes, *_uneven_ends(graph, stages), *_above_bound(best)],
        stacks=dict(recorded.stacks),
    )


def _bound(
    measured: Measured,
    recorded: Recorded,
    stats: RunStats,
    sources: Mapping[str, str],
    isolated: IsolatedBench,
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
        isolated=isolated,
    )


def _above_bound(best: Bound | None) -> list[str]:
    """No run can be faster than its bound: then the parts were not measured in isolation."""
    if best is None or best.share <= 1 + APART:
        return []
    return [
        "it is faster than its bound: other programs used the cores while that was measured; measure again"
    ]


def _uneven_ends(graph: Graph, stages: Sequence[Stage]) -> list[str]:
    """Where one branch loses frames, `frames/s` is lower than what the other branches finished."""
    ends = {stage.name: stage.packets_in for stage in stages if not graph.consumers(graph.node(stage.name))}
    if max(ends.values()) - min(ends.values()) <= APART * max(ends.values()):
        return []
    each = ", ".join(f"{name} {packets}" for name, packets in ends.items())
    return [
        f"the last stages took different numbers of frames ({each}); a frame counts once it left all of them"
    ]


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
    """The engines as each stage used them, per frame that the stage took, even if it was dropped later."""
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
