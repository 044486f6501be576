"""Exports the snapshot of a run to Prometheus; it is taken anew at each scrape.

Durations are histograms. Their bounds are half octaves, which the runtime's own histograms have too, so the
counts are exact. docs/service.md describes every metric.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from pipeline.measurement.metrics import COUNTERS, Histogram
from pipeline.measurement.run_stats import RunStats
from pipeline.measurement.stage_stats import EdgeStats, StageStats
from pipeline.measurement.stream_stats import StreamStats
from pipeline.run import Run

BOUNDS_NS = [step << octave for octave in range(17, 33) for step in (2, 3)]  # 0.26 ms … 12.9 s
INFINITY_NS = 1 << 62
BATCHES = [1, 2, 4, 8, 16, 32, 64, 128]
OUTAGES, OUTAGE_MS = "outages", "outage_ms"  # counters of sources

T = TypeVar("T")
Labels = tuple[str, ...]
ByLabels = Mapping[Any, T]  # the values of the labels: the value of the metric


def make_registry(run: Run) -> CollectorRegistry:
    """Register all that is exported: the run, this build, this process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RunCollector(run))
    ProcessCollector(registry=registry)
    return registry


def scrape(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the body and the content type of an answer to a scraper with this Accept header."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class RunCollector(Collector):
    """Takes the snapshot of a run whenever it is asked."""

    def __init__(self, run: Run):
        self._run = run

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the names are only known once they are collected."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics of this moment."""
        stats = self._run.stats()
        yield from _run(stats)
        yield from _stages(stats.stages)
        yield from _edges(stats.edges)
        faults = {(fault.stage, fault.stream, fault.kind): fault.packets for fault in stats.faults}
        meaning = "Packets that a stage swallowed, repeated, invented or reordered; should be none."
        yield _gauge("stage_unaccounted_packets", meaning, ("stage", "stream", "kind"), faults)
        yield from _streams(stats, set(self._run.sources()))


def _run(stats: RunStats) -> Iterator[Metric]:
    build = {(version("posestream"), platform.python_version()): 1}
    run = {(stats.run_id, stats.graph): 1}
    yield _gauge("build_info", "The version at work; always 1.", ("version", "python"), build)
    yield _gauge("run_info", "The run at work; always 1.", ("run", "graph"), run)
    yield _gauge("run_seconds", "Since all operators were open and reading began.", (), {(): stats.seconds})


def _stages(stages: Sequence[StageStats]) -> Iterator[Metric]:
    def of_each(value: Callable[[StageStats], T]) -> ByLabels[T]:
        return {(stage.name,): value(stage) for stage in stages}

    def by_key(values: Callable[[StageStats], Mapping[str, int]]) -> ByLabels[int]:
        return {(stage.name, key): n for stage in stages for key, n in values(stage).items()}

    for name, meaning in COUNTERS.items():
        exported = f"stage_{name.removesuffix('_ns')}{'_seconds' if name.endswith('_ns') else ''}"
        unit = 1e9 if name.endswith("_ns") else 1  # Prometheus counts time in seconds
        counts = {(stage.name,): getattr(stage.work, name) / unit for stage in stages}
        yield _counter(exported, meaning, ("stage",), counts)
    yield _gauge("stage_workers", "Workers of a stage.", ("stage",), of_each(lambda stage: stage.workers))
    held = of_each(lambda stage: stage.in_flight)
    yield _gauge("stage_in_flight_packets", "Packets that a stage works on or holds.", ("stage",), held)
    wait, latency = of_each(lambda stage: stage.work.wait), of_each(lambda stage: stage.work.latency)
    yield _durations("stage_wait_seconds", "Time of a packet in the queue.", ("stage",), wait)
    yield _durations(
        "stage_latency_seconds", "Time of a packet in the queue and at work.", ("stage",), latency
    )
    yield _batches(stages)
    dropped, counted = by_key(lambda stage: stage.dropped), by_key(lambda stage: stage.counters)
    lost = "Packets that a stage set aside, or that its operator dropped."
    yield _counter("stage_dropped_packets", lost, ("stage", "reason"), dropped)
    yield _counter("operator_events", "What an operator itself counted.", ("stage", "event"), counted)


def _edges(edges: Sequence[EdgeStats]) -> Iterator[Metric]:
    def of_each(value: Callable[[EdgeStats], int]) -> ByLabels[int]:
        return {(edge.producer, edge.consumer): value(edge) for edge in edges}

    ends = ("producer", "consumer")
    yield _counter("edge_received_packets", "Packets put on an edge.", ends, of_each(lambda e: e.received))
    yield _counter(
        "edge_delivered_packets", "Packets taken off an edge.", ends, of_each(lambda e: e.delivered)
    )
    yield _gauge("edge_depth_packets", "Packets that wait on an edge.", ends, of_each(lambda e: e.in_flight))
    lost = {(e.producer, e.consumer, reason): n for e in edges for reason, n in e.dropped.items()}
    yield _counter("edge_dropped_packets", "Packets lost on an edge.", (*ends, "reason"), lost)


def _streams(stats: RunStats, attached: set[str]) -> Iterator[Metric]:
    def of_each(value: Callable[[StreamStats], T]) -> ByLabels[T]:
        return {(stream.name,): value(stream) for stream in stats.streams}

    def summed(values: ByLabels[int], past: int) -> ByLabels[int]:
        # Without the forgotten streams, a sum over all streams would fall whenever one is forgotten.
        return {**values, ("",): past} if stats.past.streams else values

    label = ("stream",)
    read = summed(of_each(lambda stream: stream.read), stats.past.read)
    finished = summed(of_each(lambda stream: stream.finished), stats.past.finished)
    instances = summed(of_each(lambda stream: stream.instances), stats.past.instances)
    yield _counter("stream_read_frames", "Frames that its source gave.", label, read)
    yield _counter("stream_finished_frames", "Frames that have left all last stages.", label, finished)
    yield _counter("stream_instances", "Animals and persons in the finished frames.", label, instances)
    reading = of_each(lambda stream: int(stream.source in attached))
    yield _gauge("stream_attached", "1 while its source is being read.", label, reading)
    yield _gauge("stream_lost", "1 while its source gives nothing.", label, of_each(lambda s: int(s.lost)))
    outages = of_each(lambda stream: stream.counters[OUTAGES])
    outage_s = of_each(lambda stream: stream.counters[OUTAGE_MS] / 1e3)
    yield _counter("stream_outages", "How often its source was lost.", label, outages)
    yield _counter("stream_outage_seconds", "Length of the outages that are over.", label, outage_s)
    ages = of_each(lambda stream: stream.age)
    yield _durations("stream_age_seconds", "From a frame's arrival to the last stage's end.", label, ages)
    lost = "Frames lost anywhere on the way."
    yield _counter("stream_dropped_frames", lost, ("stream", "reason"), dict(stats.losses))
    counters = {stream.source: stream.counters for stream in stats.streams}
    events = {(source, event): n for source, counted in counters.items() for event, n in counted.items()}
    yield _counter("source_events", "What a source itself counted.", ("source", "event"), events)


def _counter(name: str, meaning: str, labels: Labels, values: ByLabels[float]) -> Metric:
    family = CounterMetricFamily(f"posestream_{name}", meaning, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _gauge(name: str, meaning: str, labels: Labels, values: ByLabels[float]) -> Metric:
    family = GaugeMetricFamily(f"posestream_{name}", meaning, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _durations(name: str, meaning: str, labels: Labels, values: ByLabels[Histogram]) -> Metric:
    """Make a histogram in seconds: cumulative counts below each bound, `+Inf` the last."""
    family = HistogramMetricFamily(f"posestream_{name}", meaning, labels=labels)
    bounds = [*(floatToGoString(bound / 1e9) for bound in BOUNDS_NS), "+Inf"]
    for key, histogram in values.items():
        counts = histogram.below([*BOUNDS_NS, INFINITY_NS])
        family.add_metric(key, list(zip(bounds, counts, strict=True)), histogram.total_ns / 1e9)
    return family


def _batches(stages: Sequence[StageStats]) -> Metric:
    """Make the histogram of batch sizes: cumulative counts of calls up to each size, and their packets."""
    family = HistogramMetricFamily("posestream_stage_batch_packets", "Packets a call took.", labels=["stage"])
    bounds = [*(floatToGoString(bound) for bound in BATCHES), "+Inf"]
    for stage in stages:
        calls = [sum(n for size, n in stage.batches.items() if size <= bound) for bound in BATCHES]
        packets = sum(size * n for size, n in stage.batches.items())
        cumulative = [*calls, sum(stage.batches.values())]
        family.add_metric([stage.name], list(zip(bounds, cumulative, strict=True)), packets)
    return family
