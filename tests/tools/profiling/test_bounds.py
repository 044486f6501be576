"""The bound: what is measured in isolation, and which limits follow from it."""

from __future__ import annotations

import time

import av
import numpy as np
import pytest
import yaml

from operators.graphs.graph_files import load_graph
from pipeline.errors import SourceError
from tests.support.models.tiny_onnx import carrying
from tests.support.models.toy_models import contract, save
from tools.profiling.bounds import Decoded, IsolatedBench, bound
from tools.profiling.document import Engine
from tools.profiling.session import StopRequest, measure
from tools.profiling.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def graph_of(folder, *, source="decode", **nodes):
    spec, last = {"source": {"op": source}}, "source"
    for name, node in nodes.items():
        spec[name], last = {"after": last, **node}, name
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({"name": "toy", "graph": spec}))
    return path


def make_clip(path, *, frames=30, side=64):
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        noise = np.random.default_rng(0)
        for _ in range(frames):
            picture = noise.integers(0, 255, (side, side, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def used(stage, *, per_frame=1.0, threads=1, backend="onnxruntime"):
    return Engine(stage=stage, model=f"m-{stage}", file="m.onnx", backend=backend, threads=threads, calls=1, items=1,
                  items_per_frame=per_frame, call_p50_ms=1.0, call_p95_ms=1.0, ms_per_item=9.0)  # fmt: skip


class Known(IsolatedBench):
    """Measures nothing: gives the ms per item by stage and threads, and the ms per decoded frame by source."""

    def __init__(self, items, decode=None):
        super().__init__()
        self.items, self.decode = items, decode

    def item_ms(self, engine, path, batches, threads):
        return self.items[engine.stage, threads]

    def decode_ms(self, graph, uri, live):
        return self.decode[uri]


SAME = {"op": "toys:Same"}
CASES = {
    "decoding and models share the processors": (
        {"engines": [used("a", per_frame=0.5), used("b", per_frame=3)],
         "known": Known({("a", 1): 8.0, ("b", 1): 5.0}, {"x": 1.0, "y": 3.0})},
        # 4 cores; decoding 1/4 of the frames at 1 ms and 3/4 at 3 ms, then 4 ms and 15 ms
        {"processors": 4000 / (2.5 + 4 + 15)},
    ),
    "models on a GPU take turns on it, decoding does not use it": (
        {"engines": [used("a", backend="onnxruntime-cuda"), used("b", backend="tensorrt")],
         "known": Known({("a", 1): 2.0, ("b", 1): 3.0}, {"x": 10.0, "y": 10.0})},
        {"processors": 400.0, "GPU": 200.0},
    ),
    "the frames of a stream follow each other": (
        {"engines": [used("a"), used("chain", per_frame=2, threads=2)],
         "known": Known({("a", 1): 2.0, ("chain", 1): 10.0, ("chain", 2): 6.0}, {"x": 3.0, "y": 3.0})},
        # two streams, each a chain of 12 ms a frame on two threads
        {"processors": 4000 / 25, "order in chain": 2000 / 12},
    ),
    "live sources have a rate of their own": (
        {"engines": [used("a")], "live": True, "known": Known({("a", 1): 10.0}, {"x": 10.0, "y": 10.0})},
        {"processors": 200.0, "sources": 80.0},
    ),
    "a source that is no decoder is not read again": (
        {"engines": [used("a")], "source": "profiling_toys:Endless", "known": Known({("a", 1): 10.0})},
        {"processors": 400.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "limits"), CASES.values(), ids=CASES)
def test_limits(tmp_path, given, limits):
    path = graph_of(
        tmp_path, source=given.get("source", "decode"), a=SAME, b=SAME, chain={"op": "toys:SameByStream"}
    )
    found = bound(
        load_graph(path),
        given["engines"],
        {},
        [Decoded("x", 100), Decoded("y", 300)],
        live=given.get("live", False),
        fps=50.0,
        seconds=5.0,
        cores=4,
        isolated=given["known"],
    )
    assert found.limits == pytest.approx(limits)
    assert found.fps == pytest.approx(min(limits.values()))
    assert found.share == pytest.approx(50 / found.fps)


def test_with_nothing_to_measure_there_is_no_bound(tmp_path):
    graph = load_graph(graph_of(tmp_path, source="profiling_toys:Endless", a=SAME))
    assert bound(graph, [], {}, [], live=False, fps=1, seconds=1, cores=2, isolated=IsolatedBench()) is None


def test_decoding_is_measured_as_processor_time_per_frame(tmp_path):
    graph = load_graph(graph_of(tmp_path), {"source.loop": 0})
    small, large = (make_clip(tmp_path / f"{side}.mp4", side=side) for side in (32, 480))
    isolated = IsolatedBench()
    small_ms, large_ms = isolated.decode_ms(graph, small, False), isolated.decode_ms(graph, large, False)
    assert 0 < 3 * small_ms < large_ms < 200
    start = time.monotonic()
    assert isolated.decode_ms(graph, large, False) == large_ms  # remembered, not measured again
    assert time.monotonic() - start < 0.5


def test_a_source_that_is_not_there_cannot_be_decoded(tmp_path):
    with pytest.raises(SourceError, match=r"none\.mp4"):
        IsolatedBench().decode_ms(load_graph(graph_of(tmp_path)), str(tmp_path / "none.mp4"), False)


@pytest.fixture
def model(tmp_path):
    toy = contract("heatmap")
    return carrying(save(toy, tmp_path / "toy.onnx"), toy)


def test_a_model_is_measured_at_the_best_of_its_batch_sizes(model):
    isolated = IsolatedBench()
    engine = used("a").model_copy(update={"model": "toy"})
    ms = isolated.item_ms(engine, model, {1: 5, 8: 3}, 1)
    single = isolated.item_ms(engine, model, {1: 5}, 1)
    assert 0 < ms <= single < 100  # size 1 is remembered, so it is the same


def test_nothing_is_measured_after_a_stop(tmp_path, model):
    stop = StopRequest()
    stop.stop()
    isolated = IsolatedBench(stop.stopped)
    engine = used("a").model_copy(update={"model": "toy"})
    graph = load_graph(graph_of(tmp_path, a={"op": "profiling_toys:RunsModel", "model": str(model)}))
    start = time.monotonic()
    arguments = {"live": False, "fps": 1.0, "seconds": 1.0, "cores": 2, "isolated": isolated}
    assert bound(graph, [engine], {}, [], **arguments) is None
    assert time.monotonic() - start < 1


def test_the_bound_of_a_run_with_a_real_model_and_a_real_clip(tmp_path, model):
    runs = {"op": "profiling_toys:RunsModel", "model": str(model), "times": 3, "batch": {"max": 2}}
    clip = make_clip(tmp_path / "clip.mp4")
    profile = measure(Settings(graph_of(tmp_path, runs=runs), {"a": clip}, seconds=1.5, warmup_s=0.2))
    (engine,) = profile.engines
    assert (engine.stage, engine.model, engine.file, engine.backend) == (
        "runs",
        "toy",
        "toy.onnx",
        "onnxruntime",
    )
    assert engine.items_per_frame == pytest.approx(3, rel=0.2)
    assert profile.flow.read > 30  # it was played more than once
    runs = profile.stages[1]
    assert 0 < runs.engine <= runs.busy
    parts = {part.name: part for part in profile.bound.parts}
    assert set(parts) == {"source", "runs: toy"}
    assert all(part.ms > 0 for part in parts.values())
    assert parts["runs: toy"].per_frame == pytest.approx(engine.items_per_frame)
    together = sum(part.ms_per_frame for part in profile.bound.parts)
    assert profile.bound.limits["processors"] == pytest.approx(1e3 * profile.machine.cores / together)
    assert profile.bound.share == pytest.approx(profile.fps / profile.bound.fps)
    assert not profile.notes


def test_a_profile_can_leave_out_the_bound(tmp_path, model):
    runs = {"op": "profiling_toys:RunsModel", "model": str(model)}
    settings = Settings(
        graph_of(tmp_path, source="profiling_toys:Endless", runs=runs), {"a": "0"}, seconds=0.5, warmup_s=0,
        bound=False,
    )  # fmt: skip
    assert measure(settings).bound is None
