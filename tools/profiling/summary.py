"""Sums up what was seen of a run: the document of a profile, from counted figures and recorded calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.graph import Graph
from pipeline.measurement.figures import RunFigures, StageFigures
from pipeline.measurement.metrics import RunStats, StageStats, by_reason
from tools.profiling.bounds import Decoded, Lone, bound
from tools.profiling.document import Bound, Edge, Engine, Place, Profile, Stage, Stream, Use
from tools.profiling.flow import flow_of
from tools.profiling.machine.hardware import this_machine
from tools.profiling.measurements import Measured
from tools.profiling.recording.event_log import event_logs
from tools.profiling.recording.recorded import Recorded, read_recorded
from tools.profiling.settings import Settings
from tools.profiling.verdict import judge

MB = 1e6
APART = 0.05  # of the frames; less is what lies between the stages


@dataclass(frozen=True)
class Window:
    """What was measured: the figures at its beginning and at its end, and what was used in it."""

    start_ns: int  # monotonic
    end_ns: int
    before: RunFigures
    after: RunFigures
    use: Use


def write_up(
    settings: Settings,
    graph: Graph,
    sources: Mapping[str, str],
    window: Window,
    final: RunFigures,
    folder: Path,
    *,
    lone: Lone,
    notes: Sequence[str],
) -> Profile:
    """The profile of a run that has ended with the figures `final`; its recorder wrote to `folder`.

    With `settings.bound`, models and decoding are measured alone now.
    """
    recorded = read_recorded(folder).between(window.start_ns, window.end_ns)
    figures = window.after.since(window.before)
    stats = figures.stats()
    seconds, frames, machine = stats.seconds, stats.finished, this_machine()
    fps = frames / seconds if seconds else 0.0
    processes = len(event_logs(folder))
    use = window.use.model_copy(update={"lock_wait_ms": recorded.lock_wait_ms})
    edges = _edges(window, graph)
    stages = [
        _stage(graph, one, worked, edges, recorded, seconds)
        for one, worked in zip(stats.stages, figures.stages, strict=True)
    ]
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
        read = {stream.name: stream.read for stream in figures.streams}
        best = bound(
            graph,
            engines,
            {(key.stage, key.model): calls.sizes for key, calls in recorded.engines.items()},
            [Decoded(uri, read.get(name, 0)) for name, uri in sources.items()],
            live=settings.live,
            fps=fps,
            seconds=seconds,
            cores=machine.cores,
            lone=lone,
        )
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
        streams=_streams(stats, seconds),
        notes=[*notes, *_ends_apart(graph, stages), *_beyond(best)],
        stacks=dict(recorded.stacks),
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


def _stage(
    graph: Graph,
    stats: StageStats,
    figures: StageFigures,
    edges: Sequence[Edge],
    recorded: Recorded,
    seconds: float,
) -> Stage:
    node, workers = graph.node(stats.name), max(stats.workers, 1)
    calls = [calls for key, calls in recorded.engines.items() if key.stage == stats.name]
    packets = stats.packets_in if node.after else stats.packets_out
    device_ms = [one.device_ms for one in calls if one.device_ms is not None]
    copied = [one.copied for one in calls if one.copied is not None]
    # A call counts when it ends; of one that goes on and on, only standing still tells.
    busy = min(max(stats.busy / workers, _standing(recorded, stats.name) / (1e3 * seconds * workers)), 1.0)
    blocked = min(stats.blocked / workers, 1.0 - busy)
    if _held_up(stats, edges):
        blocked = 1.0 - busy
    return Stage(
        name=stats.name,
        op=node.op,
        workers=stats.workers,
        packets_in=stats.packets_in,
        packets_out=stats.packets_out,
        packets_per_s=packets / seconds,
        busy=busy,
        computing=min(stats.cpu / workers, busy),
        blocked=blocked,
        idle=1.0 - busy - blocked,
        cores=stats.cpu,
        engine=min(sum(one.ms for one in calls) / (1e3 * seconds * workers), busy),
        gpu_ms=sum(device_ms) / packets if device_ms and packets else None,
        batches=stats.batches,
        mean_batch=stats.mean_batch,
        wait_p50_ms=stats.wait_p50_ms,
        wait_p95_ms=stats.wait_p95_ms,
        wait_p99_ms=stats.wait_p99_ms,
        latency_p50_ms=stats.latency_p50_ms,
        latency_p95_ms=stats.latency_p95_ms,
        latency_p99_ms=stats.latency_p99_ms,
        memory_mb=recorded.memory_mb.get(stats.name),
        mb_per_s=recorded.payload.get(stats.name, 0) / MB / seconds,
        copied_mb_per_s=sum(copied) / MB / seconds if copied else None,
        dropped=stats.dropped,
        counters=stats.counters,
    )


def _held_up(stats: StageStats, edges: Sequence[Edge]) -> bool:
    """Whether it waited for room all of the time: that, too, only counts when it ends."""
    before = [edge for edge in edges if edge.consumer == stats.name]
    behind = [edge for edge in edges if edge.producer == stats.name]
    waiting = all(edge.in_flight_before and edge.in_flight and not edge.delivered for edge in before)
    return waiting and not stats.packets_out and any(edge.in_flight for edge in behind)


def _standing(recorded: Recorded, stage: str) -> float:
    """For how many ms it was seen to stand still in a call."""
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


def _edges(window: Window, graph: Graph) -> list[Edge]:
    edges = []
    for before, after in zip(window.before.edges, window.after.edges, strict=True):
        passed = after.since(before)
        edges.append(
            Edge(
                producer=passed.producer,
                consumer=passed.consumer,
                received=passed.received,
                delivered=passed.delivered,
                in_flight_before=before.in_flight,
                in_flight=after.in_flight,
                dropped=dict(by_reason(passed.dropped)),
            )
        )
    return edges


def _streams(stats: RunStats, seconds: float) -> list[Stream]:
    return [
        Stream(
            name=stream.name,
            read=stream.read,
            finished=stream.finished,
            dropped=stream.dropped,
            instances=stream.instances,
            fps=stream.finished / seconds,
            age_p50_ms=stream.age_p50_ms,
            age_p95_ms=stream.age_p95_ms,
            age_p99_ms=stream.age_p99_ms,
        )
        for stream in stats.streams
    ]
