"""The stages of a live run: what each did in the last seconds, and what waits for it now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil

from pipeline.graph import Graph
from pipeline.measurement.faults import Fault, Kind
from pipeline.measurement.run_stats import RunStats
from pipeline.measurement.stage_stats import StageStats
from pipeline.node import Node
from tools.views import fill

MB = 1e6
DIGITS = 3  # of rates, shares and durations in JSON


@dataclass(frozen=True)
class Unaccounted:
    """Packets of one stream that a stage or an edge swallowed, repeated, invented or reordered; so far."""

    stream: str
    kind: Kind
    packets: int


@dataclass(frozen=True)
class StageNow:
    """A stage; rates, shares, batches and durations are those of the last seconds."""

    name: str
    op: str
    workers: int  # of the source: the sources that are read
    packets_in_per_s: float
    packets_out_per_s: float
    busy: float  # at work; shares of the time of all workers, 0..1, of calls that have ended
    computing: float  # part of `busy`: their own threads computed; engines may have more threads
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
    in_flight: int  # packets that it has taken, and is working on or holds
    dropped: dict[str, int]  # reason: packets, in the queue and in the stage, since the run began
    dropped_now: dict[str, int]  # … in the last seconds
    counters: dict[str, int]  # what the operator itself counted, since the run began
    unaccounted: list[Unaccounted]  # empty as long as it accounts for every packet


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
    unaccounted: list[Unaccounted]  # empty as long as it accounts for every packet


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
    now: RunStats,
    window: RunStats,
    *,
    capacities: Sequence[int | None],
    sources: int,
    problems: list[str],
) -> RunNow:
    """Describe a run at this moment.

    Args:
        graph: the graph at work.
        now: since the run began.
        window: of the last seconds.
        capacities: how many packets each edge holds when full; None where it is not known.
        sources: how many sources are read.
        problems: why the run does not work, or not yet.
    """
    edges = [
        fill(EdgeNow, edge, capacity=capacity, unaccounted=_unaccounted(now.faults, edge.name))
        for edge, capacity in zip(now.edges, capacities, strict=True)
    ]
    stages = []
    for node, whole, lately in zip(graph.nodes, now.stages, window.stages, strict=True):
        workers = sources if node is graph.source else lately.workers
        inputs = [edge for edge in edges if edge.consumer == node.name]
        stages.append(_stage(node, now, whole, window, replace(lately, workers=workers), inputs))
    return fill(
        RunNow,
        window,
        digits=DIGITS,
        run=now.run_id,
        problems=problems,
        uptime_s=now.seconds,
        window_s=window.seconds,
        cores=window.cores_busy,
        processors=os.cpu_count() or 1,
        load=_load(),
        memory_mb=psutil.Process().memory_info().rss / MB,
        stages=stages,
        edges=edges,
    )


def _stage(
    node: Node, now: RunStats, whole: StageStats, window: RunStats, lately: StageStats, inputs: list[EdgeNow]
) -> StageNow:
    known = [edge.capacity for edge in inputs if edge.capacity is not None]
    return fill(
        StageNow,
        lately.shares(),
        lately,
        digits=DIGITS,
        op=node.op,
        waiting=sum(edge.in_flight for edge in inputs),
        capacity=sum(known) if inputs and len(known) == len(inputs) else None,
        dropped=now.dropped_at(node.name),
        dropped_now=window.dropped_at(node.name),
        counters=whole.counters,
        unaccounted=_unaccounted(now.faults, node.name),
    )


def _unaccounted(faults: Sequence[Fault], place: str) -> list[Unaccounted]:
    return [Unaccounted(it.stream, it.kind, it.packets) for it in faults if it.stage == place]


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # not on every system
        return None
