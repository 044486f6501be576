"""The figures of a run for Prometheus, read from the run at each scrape: there is no second set of books.

Durations are real histograms. Their bounds are steps of half an octave: edges of the buckets in which the
runtime itself counts, so that they are exact. `docs/service.md` says what each metric means.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from pipeline.measurement.metrics import COUNTERS, Histogram
from pipeline.measurement.stats import EdgeStats, PastStreams, RunStats, StageStats, StreamStats
from pipeline.run import Run

BOUNDS_NS = [step << octave for octave in range(17, 33) for step in (2, 3)]  # 0.26 ms … 12.9 s
FOREVER_NS = 1 << 62
BATCHES = [1, 2, 4, 8, 16, 32, 64, 128]
OUTAGES, OUTAGE_MS = "outages", "outage_ms"  # what sources count of their outages


def make_registry(run: Run) -> CollectorRegistry:
    """All that is exported: the run's figures, this build, this process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RunCollector(run))
    ProcessCollector(registry=registry)
    return registry


def scrape(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The body and the content type of an answer to a scraper that accepts this."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class RunCollector(Collector):
    """Reads the figures of a run whenever it is asked."""

    def __init__(self, run: Run):
        self._run = run

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: names are known when first collected."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics, of this moment."""
        figures = self._run.stats()
        yield from _run(figures)
        yield from _stages(figures.stages)
        yield from _edges(figures.edges)
        yield from _streams(figures, set(self._run.sources()))


def _run(figures: RunStats) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        "posestream_build_info", "The version at work; always 1.", labels=["version", "python"]
    )
    build.add_metric([version("posestream"), platform.python_version()], 1)
    run = GaugeMetricFamily("posestream_run_info", "The run at work; always 1.", labels=["run", "graph"])
    run.add_metric([figures.run_id, figures.graph], 1)
    yield build
    yield run
    yield GaugeMetricFamily(
        "posestream_run_seconds",
        "Since all operators were open and reading began.",
        value=figures.run_ns / 1e9,
    )


def _stages(stages: list[StageStats]) -> Iterator[Metric]:
    for name, meaning in COUNTERS.items():
        yield _stage_counter(name, meaning, stages)
    workers = GaugeMetricFamily("posestream_stage_workers", "Workers of a stage.", labels=["stage"])
    wait = HistogramMetricFamily(
        "posestream_stage_wait_seconds", "Time of a packet in the queue.", labels=["stage"]
    )
    latency = HistogramMetricFamily(
        "posestream_stage_latency_seconds", "Time of a packet in the queue and at work.", labels=["stage"]
    )
    batches = HistogramMetricFamily(
        "posestream_stage_batch_packets", "Packets a call took.", labels=["stage"]
    )
    for stage in stages:
        workers.add_metric([stage.name], stage.workers)
        wait.add_metric([stage.name], _buckets(stage.work.wait), stage.work.wait.total_ns / 1e9)
        latency.add_metric([stage.name], _buckets(stage.work.latency), stage.work.latency.total_ns / 1e9)
        batches.add_metric([stage.name], *_batches(stage.work.batches))
    yield from (workers, wait, latency, batches)
    dropped = CounterMetricFamily(
        "posestream_stage_dropped_packets", "Packets that a stage set aside.", labels=["stage", "reason"]
    )
    events = CounterMetricFamily(
        "posestream_operator_events", "What an operator itself counted.", labels=["stage", "event"]
    )
    for stage in stages:
        for reason, packets in stage.dropped.items():
            dropped.add_metric([stage.name, reason], packets)
        for event, n in stage.counters.items():
            events.add_metric([stage.name, event], n)
    yield from (dropped, events)


def _stage_counter(name: str, meaning: str, stages: list[StageStats]) -> Metric:
    """One of the workers' plain counters; Prometheus counts time in seconds."""
    in_ns = name.endswith("_ns")
    exported = f"posestream_stage_{name.removesuffix('_ns')}{'_seconds' if in_ns else ''}"
    family = CounterMetricFamily(exported, meaning, labels=["stage"])
    for stage in stages:
        family.add_metric([stage.name], getattr(stage.work, name) / (1e9 if in_ns else 1))
    return family


def _edges(edges: list[EdgeStats]) -> Iterator[Metric]:
    labels = ["producer", "consumer"]
    received = CounterMetricFamily(
        "posestream_edge_received_packets", "Packets put on an edge.", labels=labels
    )
    delivered = CounterMetricFamily(
        "posestream_edge_delivered_packets", "Packets taken off an edge.", labels=labels
    )
    depth = GaugeMetricFamily("posestream_edge_depth_packets", "Packets that wait on an edge.", labels=labels)
    dropped = CounterMetricFamily(
        "posestream_edge_dropped_packets", "Packets lost on an edge.", labels=[*labels, "reason"]
    )
    for edge in edges:
        producer, consumer = edge.producer, edge.consumer
        received.add_metric([producer, consumer], edge.received)
        delivered.add_metric([producer, consumer], edge.delivered)
        depth.add_metric([producer, consumer], edge.in_flight)
        for reason, packets in edge.dropped.items():
            dropped.add_metric([producer, consumer, reason], packets)
    yield from (received, delivered, depth, dropped)


def _streams(figures: RunStats, attached: set[str]) -> Iterator[Metric]:
    streams = figures.streams

    def counter(name: str, text: str, value: Callable[[StreamStats], float]) -> CounterMetricFamily:
        family = CounterMetricFamily(f"posestream_stream_{name}", text, labels=["stream"])
        for stream in streams:
            family.add_metric([stream.name], value(stream))
        return family

    def gauge(name: str, text: str, value: Callable[[StreamStats], float]) -> Metric:
        family = GaugeMetricFamily(f"posestream_stream_{name}", text, labels=["stream"])
        for stream in streams:
            family.add_metric([stream.name], value(stream))
        return family

    def summed(name: str, text: str, value: Callable[[StreamStats | PastStreams], float]) -> Metric:
        family = counter(name, text, value)
        if figures.past.streams:  # else sums over all streams would fall when one is forgotten
            family.add_metric([""], value(figures.past))
        return family

    yield summed("read_frames", "Frames that its source gave.", lambda stream: stream.read)
    yield summed("finished_frames", "Frames that have left all last stages.", lambda stream: stream.finished)
    yield summed("instances", "Animals and persons in the finished frames.", lambda stream: stream.instances)
    yield gauge("attached", "1 while its source is being read.", lambda stream: stream.source in attached)
    yield gauge("lost", "1 while its source gives nothing.", lambda stream: stream.lost)
    yield counter("outages", "How often its source was lost.", lambda stream: stream.counters[OUTAGES])
    yield counter(
        "outage_seconds",
        "Length of the outages that are over.",
        lambda stream: stream.counters[OUTAGE_MS] / 1e3,
    )
    age = HistogramMetricFamily(
        "posestream_stream_age_seconds", "From a frame's arrival to the last stage's end.", labels=["stream"]
    )
    dropped = CounterMetricFamily(
        "posestream_stream_dropped_frames", "Frames lost anywhere on the way.", labels=["stream", "reason"]
    )
    events = CounterMetricFamily(
        "posestream_source_events", "What a source itself counted.", labels=["source", "event"]
    )
    for stream in streams:
        age.add_metric([stream.name], _buckets(stream.age), stream.age.total_ns / 1e9)
    for key, packets in figures.losses.items():
        dropped.add_metric(key, packets)
    for source, counters in {stream.source: stream.counters for stream in streams}.items():
        for event, n in counters.items():
            events.add_metric([source, event], n)
    yield from (age, dropped, events)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative counts below each bound in seconds, `+Inf` the last."""
    counts = histogram.below([*BOUNDS_NS, FOREVER_NS])
    return list(zip([*(floatToGoString(bound / 1e9) for bound in BOUNDS_NS), "+Inf"], counts, strict=True))


def _batches(batches: Counter[int]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative counts of batches up to each size, and the packets in all of them."""
    upto = [sum(n for size, n in batches.items() if size <= bound) for bound in BATCHES]
    names = [*(floatToGoString(bound) for bound in BATCHES), "+Inf"]
    packets = sum(size * n for size, n in batches.items())
    return list(zip(names, [*upto, batches.total()], strict=True)), packets
