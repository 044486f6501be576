"""The stages of a live run: what each did in the last seconds, and what waits for it now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from pipeline.graph import Graph
from pipeline.measurement.stats import EdgeFigures, RunFigures, StageFigures
from pipeline.measurement.metrics import Histogram, StageStats, by_reason
from pipeline.node import Node

MB = 1e6


@dataclass(frozen=True)
class StageNow:
    """A stage; rates, shares, batches and durations are those of the last seconds."""

    name: str
    op: str
    workers: int  # of the source: the sources that are read
    packets_in_per_s: float
    packets_out_per_s: float
    busy: float  # at work; shares of the time of all workers, 0..1, of calls that have ended
    computing: float  # of that, its own threads computed; engines may have more threads
    blocked: float  # waited for room behind it
    idle: float  # had nothing to do
    mean_batch: float
    wait_p50_ms: float  # in the queue
    wait_p95_ms: float
    latency_p50_ms: float  # in the queue and at work
    latency_p95_ms: float
    latency_p99_ms: float
    waiting: int  # packets in the queue
    capacity: int | None  # of the queue, where it is known
    dropped: dict[str, int]  # reason: packets lost in the queue or set aside, in all
    dropped_now: dict[str, int]  # … in the last seconds
    counters: dict[str, int]  # what the operator itself counted, in all


@dataclass(frozen=True)
class EdgeNow:
    """An edge since the run began; received = delivered + dropped + in_flight."""

    producer: str
    consumer: str
    received: int
    delivered: int
    in_flight: int
    capacity: int | None
    dropped: dict[str, int]


@dataclass(frozen=True)
class RunNow:
    """A live run and its stages at this moment."""

    run: str
    graph: str
    problems: list[str]  # why it does not work, or not yet
    uptime_s: float  # since all operators were open
    window_s: float  # how long "the last seconds" are
    fps: float  # frames of all streams that left the graph
    age_p50_ms: float
    age_p99_ms: float
    cores: float  # kept busy by this process
    processors: int  # of the machine
    load: float | None  # threads of all programs that ran or wanted to, mean of the last minute
    memory_mb: float  # resident
    stages: list[StageNow]  # the source first
    edges: list[EdgeNow]


def run_now(
    graph: Graph,
    now: RunFigures,
    before: RunFigures | None,
    *,
    room: Sequence[int | None],
    sources: int,
    problems: list[str],
) -> RunNow:
    """What was done between two moments, and how it stands at the later one.

    `before` None: since the run began. `room`: what each edge holds when full. `sources`: so many are read.
    """
    window = now.since(before) if before else now
    seconds = window.run_ns / 1e9
    edges = [_edge(edge, holds) for edge, holds in zip(now.edges, room, strict=True)]
    age = Histogram()
    for stream in window.streams:
        age.merge(stream.age)
    return RunNow(
        run=now.run_id,
        graph=now.graph,
        problems=problems,
        uptime_s=round(now.run_ns / 1e9, 1),
        window_s=round(seconds, 2),
        fps=_rate(sum(stream.finished for stream in window.streams) + window.past.finished, seconds),
        age_p50_ms=round(age.percentile_ms(50), 1),
        age_p99_ms=round(age.percentile_ms(99), 1),
        cores=round(window.cpu_ns / max(window.run_ns, 1), 2),
        processors=os.cpu_count() or 1,
        load=_load(),
        memory_mb=round(psutil.Process().memory_info().rss / MB, 1),
        stages=[
            _stage(
                node,
                stage.stats(window.run_ns),
                seconds,
                workers=sources if node is graph.source else stage.workers,
                inputs=[edge for edge in edges if edge.consumer == node.name],
                dropped=_dropped(now, in_all),
                dropped_now=_dropped(window, stage),
                counters=dict(in_all.counters),
            )
            for node, stage, in_all in zip(graph.nodes, window.stages, now.stages, strict=True)
        ],
        edges=edges,
    )


def _stage(
    node: Node,
    lately: StageStats,
    seconds: float,
    *,
    workers: int,
    inputs: list[EdgeNow],
    dropped: dict[str, int],
    dropped_now: dict[str, int],
    counters: dict[str, int],
) -> StageNow:
    # A call is counted when it ends, so a long one may bring more than there was time in the window.
    busy = min(lately.busy / max(workers, 1), 1.0)
    blocked = min(lately.blocked / max(workers, 1), 1.0 - busy)
    known = [edge.capacity for edge in inputs if edge.capacity is not None]
    return StageNow(
        name=node.name,
        op=node.op,
        workers=workers,
        packets_in_per_s=_rate(lately.packets_in, seconds),
        packets_out_per_s=_rate(lately.packets_out, seconds),
        busy=round(busy, 3),
        computing=round(min(lately.cpu / max(workers, 1), busy), 3),
        blocked=round(blocked, 3),
        idle=round(1.0 - busy - blocked, 3),
        mean_batch=round(lately.mean_batch, 2),
        wait_p50_ms=round(lately.wait_p50_ms, 1),
        wait_p95_ms=round(lately.wait_p95_ms, 1),
        latency_p50_ms=round(lately.latency_p50_ms, 1),
        latency_p95_ms=round(lately.latency_p95_ms, 1),
        latency_p99_ms=round(lately.latency_p99_ms, 1),
        waiting=sum(edge.in_flight for edge in inputs),
        capacity=sum(known) if inputs and len(known) == len(inputs) else None,
        dropped=dropped,
        dropped_now=dropped_now,
        counters=counters,
    )


def _edge(edge: EdgeFigures, capacity: int | None) -> EdgeNow:
    return EdgeNow(
        producer=edge.producer,
        consumer=edge.consumer,
        received=edge.received,
        delivered=edge.delivered,
        in_flight=edge.in_flight,
        capacity=capacity,
        dropped=dict(by_reason(edge.dropped)),
    )


def _dropped(figures: RunFigures, stage: StageFigures) -> dict[str, int]:
    """What was lost at a stage, by reason: in its queue, and set aside by itself."""
    reasons = by_reason(stage.work.dropped)
    for edge in figures.edges:
        if edge.consumer == stage.name:
            reasons.update(by_reason(edge.dropped))
    return {reason: packets for reason, packets in reasons.items() if packets}


def _rate(packets: int, seconds: float) -> float:
    return round(packets / seconds, 2) if seconds else 0.0


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):  # not on every system
        return None
