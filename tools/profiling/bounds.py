"""The best that decoding and the bare models allow on this machine: each measured alone, then added up."""

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
from operators.graph_files import models_in
from pipeline.errors import PipelineError, PosestreamError
from pipeline.graph import Graph
from pipeline.operator import RunInfo, Source
from pipeline.packet import Packet
from tools.profiling.document import Alone, Bound, Engine

log = logging.getLogger("posestream.profile")

BENCH_S = 0.8  # for each size of batch of each engine
SIZES = 3  # of batches, those in which most items went
DECODE_S = 2.0  # for each source
SOURCES = 4  # of many, so many are decoded alone
FIRST_FRAME_S = 10.0  # of a camera
NONE_S = 1e-9


class Decoded(NamedTuple):
    """What a source gave during the measurement."""

    uri: str
    frames: int


class Lone:
    """Measures parts of a run with nothing else running; what it has measured once it knows.

    `ended` is asked before each; once it is set, nothing more is measured.
    """

    def __init__(self, ended: threading.Event | None = None, said: Callable[[str], None] = lambda _: None):
        self._ended = ended or threading.Event()
        self._said = said
        self._engines: dict[tuple[str, str, int, int], float | None] = {}
        self._sources: dict[tuple[str, str, bool], float | None] = {}

    @property
    def ended(self) -> bool:
        """Whether nothing more is measured."""
        return self._ended.is_set()

    def item_ms(self, engine: Engine, path: Path | None, batches: Mapping[int, int], threads: int) -> float:
        """The time for an item at the best of these batch sizes (size: how often), on so many threads.

        Raises:
            AssetError, EngineError, ContractError: as `load_engine`.
        """
        often = sorted(batches, key=lambda size: -size * batches[size])[:SIZES] or [1]
        contract, _ = find_model(str(path) if path else engine.model)
        for size in often:
            key = (engine.model, engine.backend, threads, size)
            if key in self._engines or self.ended:
                continue
            self._said(f"{engine.model} alone, {size} at a time")
            bench = bench_model(
                contract, path=path, backend=engine.backend, threads=threads, batches=[size], seconds=BENCH_S
            )
            p50_ms = bench.rows[0].p50_ms
            self._engines[key] = None if p50_ms is None else p50_ms / size
        times = [self._engines.get((engine.model, engine.backend, threads, size)) for size in often]
        return min((ms for ms in times if ms is not None), default=0.0)

    def decode_ms(self, graph: Graph, uri: str, live: bool) -> float | None:
        """Processor time for a frame of a source, decoded on one thread; None if that cannot be told.

        Raises:
            SourceError: it cannot be read.
        """
        key = (str(graph.source.options), uri, live and is_camera(uri))
        if key not in self._sources and not self.ended:
            self._said("decoding alone")
            self._sources[key] = _decode_ms(graph, uri, key[2])
        return self._sources.get(key)


def _decode_ms(graph: Graph, uri: str, live: bool) -> float | None:
    source = graph.source.make()
    assert isinstance(source, Source)  # Graph has checked it
    source.open(RunInfo.new(graph.name)._replace(cores=1, live=live))
    given_up = threading.Timer(FIRST_FRAME_S, source.stop)
    given_up.start()
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
            else:  # with the first frame, the source was opened, too
                given_up.cancel()
                start_ns, end = now_ns, time.monotonic() + DECODE_S
    finally:
        given_up.cancel()
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
    lone: Lone,
) -> Bound | None:
    """Measure what the run used, and say how fast a pipeline of nothing else could be.

    On the processors decoding and models share all cores: a frame takes the sum of their times, on one
    thread. Models on a GPU take their turns on it. Where a stage takes the frames of a stream one behind the
    other, every stream is a chain of its models' calls. And live sources give no more than they give.

    Args:
        graph: as it ran.
        engines: as they were used.
        batches: stage and model to how often the engine was called with how many items.
        sources: what was read.
        live: whether they are waited for.
        fps: ours.
        seconds: how long was measured.
        cores: of this machine.
        lone: measures.

    Returns:
        None if nothing of it could be measured, or the measurement was ended.
    """
    files = _files(graph)
    on_cores: list[Alone] = []
    on_gpu: list[Alone] = []
    chains: dict[str, float] = {}
    try:
        if (decode := _decoding(graph, sources, live, lone)) is not None:
            on_cores.append(Alone(name=graph.source.name, ms=decode, per_frame=1.0))
        for engine in engines:
            sizes = batches.get((engine.stage, engine.model), {})
            path = files.get(engine.model)
            alone = lone.item_ms(engine, path, sizes, 1)
            part = Alone(name=f"{engine.stage}: {engine.model}", ms=alone, per_frame=engine.items_per_frame)
            (on_cores if on_cpu(engine.backend) else on_gpu).append(part)
            if graph.node(engine.stage).per_stream:
                several = on_cpu(engine.backend) and engine.threads > 1
                ms = lone.item_ms(engine, path, sizes, engine.threads) if several else alone
                chains[engine.stage] = chains.get(engine.stage, 0.0) + ms * engine.items_per_frame
    except PosestreamError as error:
        log.warning("no bound: what was used cannot be measured alone: %s", error)
        return None
    if lone.ended:
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
    """Whether a backend computes on the processors."""
    return default_device(backend) == "cpu"


def _rate(side_by_side: int, ms: Iterable[float]) -> float | None:
    total = sum(ms)
    return 1e3 * side_by_side / total if total > NONE_S else None


def _files(graph: Graph) -> dict[str, Path]:
    """The models that the graph names by a file, by the names in their contracts."""
    found = (find_model(model) for model in models_in(graph) if model.endswith(".onnx"))
    return {contract.name: path for contract, path in found if path}


def _decoding(graph: Graph, sources: Sequence[Decoded], live: bool, lone: Lone) -> float | None:
    """Processor time for decoding a frame, of the sources as they were mixed."""
    if graph.source.op != "decode":
        return None  # it may change what it reads from: offsets in a topic
    frames: dict[str, int] = {}
    for source in sources:
        frames[source.uri] = frames.get(source.uri, 0) + source.frames
    readable = [uri for uri in frames if frames[uri] and scheme_of(resolve_uri(uri)) != "kafka"][:SOURCES]
    times = {uri: lone.decode_ms(graph, uri, live) for uri in readable}
    known = {uri: ms for uri, ms in times.items() if ms is not None}
    total = sum(frames[uri] for uri in known)
    return sum(frames[uri] * ms for uri, ms in known.items()) / total if total else None


def _source_rate(graph: Graph, source: Decoded, seconds: float) -> float:
    """Frames a second that a live source gives: as its file says, and at least what it has given."""
    given = source.frames / seconds
    options = graph.source.options
    if graph.source.op != "decode" or is_camera(resolve_uri(source.uri)):
        return given
    try:
        declared = read_header(source.uri).fps or 0.0
    except PipelineError:
        return given
    thinned = min(declared / options.get("stride", 1), options.get("fps") or declared)
    return max(given, thinned)
