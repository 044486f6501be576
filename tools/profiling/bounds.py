"""The bound: how fast this machine could be with decoding and models only, each measured in isolation."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engines.assets.model_files import find_model
from engines.loading.engine_choice import default_device
from engines.verification.bench import bench_model
from operators.decoding.addresses import is_camera, resolve_uri, scheme_of
from operators.decoding.media_files import read_header
from operators.graphs.graph_files import models_in
from pipeline.errors import PipelineError, PosestreamError
from pipeline.graph import Graph
from pipeline.operator import RunInfo, Source
from pipeline.packet import Packet
from tools.profiling.document import Alone, Bound, Engine

log = logging.getLogger("posestream.profile")

BENCH_S = 0.8  # how long each batch size of each engine is measured
SIZES = 3  # how many batch sizes of an engine are measured: those that most of its items were in
DECODE_S = 2.0  # how long each source is decoded
SOURCES = 4  # how many sources are decoded at most
FIRST_FRAME_S = 10.0  # longest wait for the first frame of a camera
NOTHING_MS = 1e-9  # less is no measured time


class Decoded(NamedTuple):
    """What a source gave during the measurement."""

    uri: str
    frames: int


class IsolatedBench:
    """Measures engines and decoding with nothing else running, each only once.

    Once `stopped` is set, nothing more is measured. `on_start` is told what is measured next.
    """

    def __init__(
        self, stopped: threading.Event | None = None, on_start: Callable[[str], None] = lambda _: None
    ):
        self._stopped = stopped or threading.Event()
        self._on_start = on_start
        self._engines: dict[tuple[str, str, int, int], float | None] = {}
        self._sources: dict[tuple[str, str, bool], float | None] = {}

    @property
    def stopped(self) -> bool:
        """Whether nothing more is measured."""
        return self._stopped.is_set()

    def item_ms(self, engine: Engine, path: Path | None, batches: Mapping[int, int], threads: int) -> float:
        """Measure an engine's time per item in ms, at the best of these batch sizes (size: calls).

        Raises:
            AssetError, EngineError, ContractError: as `load_engine`.
        """
        sizes = sorted(batches, key=lambda size: -size * batches[size])[:SIZES] or [1]
        contract, _ = find_model(str(path) if path else engine.model)
        for size in sizes:
            key = (engine.model, engine.backend, threads, size)
            if key in self._engines or self.stopped:
                continue
            self._on_start(f"{engine.model} alone, {size} at a time")
            bench = bench_model(
                contract, path=path, backend=engine.backend, threads=threads, batches=[size], seconds=BENCH_S
            )
            p50_ms = bench.rows[0].p50_ms
            self._engines[key] = None if p50_ms is None else p50_ms / size
        times = [self._engines.get((engine.model, engine.backend, threads, size)) for size in sizes]
        return min((ms for ms in times if ms is not None), default=0.0)

    def decode_ms(self, graph: Graph, uri: str, live: bool) -> float | None:
        """Measure the processor time in ms to decode a frame of a source on one thread; None without frames.

        Raises:
            SourceError: the source cannot be read.
        """
        key = (str(graph.source.options), uri, live and is_camera(uri))
        if key not in self._sources and not self.stopped:
            self._on_start("decoding alone")
            self._sources[key] = _decode_ms(graph, uri, key[2])
        return self._sources.get(key)


def _decode_ms(graph: Graph, uri: str, live: bool) -> float | None:
    source = graph.source.make()
    assert isinstance(source, Source)  # Graph has checked it
    source.open(RunInfo.new(graph.name)._replace(cores=1, live=live))
    give_up = threading.Timer(FIRST_FRAME_S, source.stop)
    give_up.start()
    frames, start_ns, used_ns, end = 0, 0, 0, 0.0
    items = source.read("alone", uri)
    try:
        for item in items:
            if not isinstance(item, Packet):
                continue
            now_ns = time.process_time_ns()
            if start_ns:
                frames, used_ns = frames + 1, now_ns - start_ns
                if time.monotonic() >= end:
                    break
            else:  # the time to the first frame includes opening the source
                give_up.cancel()
                start_ns, end = now_ns, time.monotonic() + DECODE_S
    finally:
        give_up.cancel()
        source.stop()
        source.close()
    return used_ns / frames / 1e6 if frames else None


def bound(
    graph: Graph,
    engines: Sequence[Engine],
    batches: Mapping[tuple[str, str], Mapping[int, int]],
    sources: Sequence[Decoded],
    *,
    live: bool,
    fps: float,
    seconds: float,
    cores: int,
    isolated: IsolatedBench,
) -> Bound | None:
    """Measure what the run used in isolation, and compute how fast a pipeline of nothing else could be.

    The bound is the lowest of these limits. Decoding and the models on the CPU share all cores: a frame costs
    the sum of their times on one thread. Models on a GPU take turns on it. Where a stage takes the frames of
    a stream in order, its models' calls for one stream follow each other. Live sources have a rate of their
    own.

    Args:
        graph: the graph that ran.
        engines: the engines as they were used.
        batches: stage and model to batch size to calls.
        sources: what was read.
        live: whether the sources have a rate of their own.
        fps: the run's frames/s.
        seconds: how long was measured.
        cores: the cores of this machine.
        isolated: measures the parts.

    Returns:
        None if nothing could be measured, or the measurement was stopped.
    """
    files = _files(graph)
    on_cores: list[Alone] = []
    on_gpu: list[Alone] = []
    chains: dict[str, float] = {}
    try:
        if (decode := _decoding(graph, sources, live, isolated)) is not None:
            on_cores.append(Alone(name=graph.source.name, ms=decode, per_frame=1.0))
        for engine in engines:
            sizes = batches.get((engine.stage, engine.model), {})
            path = files.get(engine.model)
            alone = isolated.item_ms(engine, path, sizes, 1)
            part = Alone(name=f"{engine.stage}: {engine.model}", ms=alone, per_frame=engine.items_per_frame)
            (on_cores if on_cpu(engine.backend) else on_gpu).append(part)
            if graph.node(engine.stage).per_stream:
                several = on_cpu(engine.backend) and engine.threads > 1
                ms = isolated.item_ms(engine, path, sizes, engine.threads) if several else alone
                chains[engine.stage] = chains.get(engine.stage, 0.0) + ms * engine.items_per_frame
    except PosestreamError as error:
        log.warning("no bound: a part cannot be measured in isolation: %s", error)
        return None
    if isolated.stopped:
        return None
    limits = {"processors": _rate(cores, (part.ms_per_frame for part in on_cores))}
    limits["GPU"] = _rate(1, (part.ms_per_frame for part in on_gpu))
    for stage, ms in chains.items():
        limits[f"order in {stage}"] = _rate(len(sources), [ms])
    if live:
        limits["sources"] = sum(_source_rate(graph, source, seconds) for source in sources)
    known = {name: limit for name, limit in limits.items() if limit}
    if not known:
        return None
    lowest = min(known.values())
    return Bound(parts=[*on_cores, *on_gpu], cores=cores, fps=lowest, limits=known, share=fps / lowest)


def on_cpu(backend: str) -> bool:
    """Whether a backend computes on the CPU."""
    return default_device(backend) == "cpu"


def _rate(side_by_side: int, ms: Iterable[float]) -> float | None:
    total = sum(ms)
    return 1e3 * side_by_side / total if total > NOTHING_MS else None


def _files(graph: Graph) -> dict[str, Path]:
    """The models that the graph names by a file: the name in the contract to the file."""
    found = (find_model(model) for model in models_in(graph) if model.endswith(".onnx"))
    return {contract.name: path for contract, path in found if path}


def _decoding(graph: Graph, sources: Sequence[Decoded], live: bool, isolated: IsolatedBench) -> float | None:
    """Processor time in ms to decode a frame, weighted by the frames that each source gave."""
    if graph.source.op != "decode":
        return None  # reading again may change something, as the offsets of a Kafka topic
    frames: dict[str, int] = {}
    for source in sources:
        frames[source.uri] = frames.get(source.uri, 0) + source.frames
    readable = [uri for uri in frames if frames[uri] and scheme_of(resolve_uri(uri)) != "kafka"][:SOURCES]
    times = {uri: isolated.decode_ms(graph, uri, live) for uri in readable}
    known = {uri: ms for uri, ms in times.items() if ms is not None}
    total = sum(frames[uri] for uri in known)
    return sum(frames[uri] * ms for uri, ms in known.items()) / total if total else None


def _source_rate(graph: Graph, source: Decoded, seconds: float) -> float:
    """Frames/s of a live source: the rate in its file, but at least what it gave."""
    measured = source.frames / seconds
    options = graph.source.options
    if graph.source.op != "decode" or is_camera(resolve_uri(source.uri)):
        return measured
    try:
        declared = read_header(source.uri).fps or 0.0
    except PipelineError:
        return measured
    thinned = min(declared / options.get("stride", 1), options.get("fps") or declared)
    return max(measured, thinned)
