"""While a whole graph runs on the GPU, the host never waits for the whole device."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import av
import pytest
import yaml

torch = pytest.importorskip("torch")

from engines.assets.store import cached_path  # noqa: E402
from engines.contracts.contract import Contract, load_contract  # noqa: E402
from engines.conversion.export import export_model, random_network  # noqa: E402
from engines.errors import EngineError  # noqa: E402
from engines.tensorrt.network import Batch  # noqa: E402
from engines.tensorrt.plan_builder import build_plan  # noqa: E402
from operators import REGISTRY  # noqa: E402
from pipeline.graph import check_graph  # noqa: E402
from pipeline.run import Run  # noqa: E402
from tests.support.devices.compiled_here import skip_unless_built_here  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks" / "gpu"))
from measuring.clip import make_clip  # noqa: E402
from measuring.cuda_trace import CudaTrace, cuda_trace, trace_nvdec  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(400)]

DEVICE, PERSONS, STREAMS = "cuda:0", 3, 2
WARM_S, TRACED_S = 4.0, 1.0
IN_FLIGHT = 16  # frames that are decoded, but not finished
ALLOCATING = {"cudaMalloc", "cudaMallocAsync", "cudaHostAlloc", "cudaMallocHost", "cudaFree", "cudaFreeHost"}


def on_stream(trace: CudaTrace, number: int) -> int:
    """How often the host waited for a stream."""
    return sum(n for (_, stream), n in trace.waits.items() if stream == number)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A POSESTREAM_HOME with a small detector and a small pose model, both with random weights."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSESTREAM_HOME", str(home))
        detector, pose = load_contract("rtmdet-nano-pth"), load_contract("rtmpose-t-body8")
        small = {"input": detector.input.model_copy(update={"size": (128, 128)})}
        _save(home, detector.model_copy(update={"name": "small-detector", **small}))
        size = (64, 96)
        outputs = {
            role: output.model_copy(update={"shape": (*output.shape[:2], 2 * side)})
            for (role, output), side in zip(pose.outputs.items(), size, strict=True)
        }
        small = {"input": pose.input.model_copy(update={"size": size}), "outputs": outputs}
        _save(home, pose.model_copy(update={"name": "small-pose", **small}))
        load_contract.cache_clear()
        yield home
    load_contract.cache_clear()


def _save(home: Path, model: Contract) -> None:
    """Save a checkpoint of a model and its contract where the user's own models are."""
    file = home / "weights.pth"
    torch.save({"state_dict": random_network(model, 0).state_dict()}, file)
    content = file.read_bytes()
    changes = {"filename": f"{model.name}.pth", "sha256": hashlib.sha256(content).hexdigest()}
    model = model.model_copy(
        update={"asset": model.asset.model_copy(update={**changes, "bytes": len(content)})}
    )
    kept = cached_path(model.asset)
    kept.parent.mkdir(parents=True)
    file.rename(kept)
    (home / "models").mkdir(exist_ok=True)
    (home / "models" / f"{model.name}.yaml").write_text(yaml.safe_dump(model.model_dump(mode="json")))


@pytest.fixture(params=["torch", "tensorrt", "tensorrt-rtx"])
def graph(request, home):
    """A graph of decode, detect, track and pose on the GPU; all batches have the same size."""
    backend = request.param
    if backend != "torch":
        skip_unless_built_here(backend)
        for library in ("onnx", "onnxscript", "onnxslim"):
            pytest.importorskip(library)
        for name, batch in (("small-detector", Batch(1, 1, 1)), ("small-pose", Batch(1, 4, 4))):
            contract = load_contract(name)
            build_plan(contract, export_model(contract).path, backend, "fp32", batch)
    on = {"device": DEVICE}
    model = {"backend": backend, "batch": {"max": 1}, **on}
    scores = dict.fromkeys(("low_score", "high_score", "new_score"), 0.0)
    nodes = {
        "decode": {"op": "decode", "loop": 0, **on},
        "detect": {"op": "detect", "model": "small-detector", "min_score": 1e-6, "max_detections": PERSONS,
                   "after": "decode", **model},
        "track": {"op": "track", "after": "detect", **scores},
        "pose": {"op": "pose", "model": "small-pose", "max_instances": PERSONS, "after": "track", **model},
    }  # fmt: skip
    return check_graph({"name": "on-the-gpu", "graph": nodes}, REGISTRY)


@pytest.fixture(scope="module")
def default_stream():
    """The profiler's number of CUDA's default stream, from a wait for that stream that the trace must show."""
    with cuda_trace() as trace:
        torch.ones(8, device=DEVICE).add_(1)
        torch.cuda.default_stream().synchronize()
        torch.cuda.synchronize()
    assert trace.device_wide == 1, "the profiler does not see waits, so this test would not either"
    (number,) = {stream for kind, stream in trace.waits if kind == "Stream Sync"}
    return number


@pytest.fixture(scope="module")
def nvdec_alone(tmp_path_factory):
    """A trace of FFmpeg alone, and its frames: what the graph's decoders wait for is not our code's."""
    clip = make_clip(tmp_path_factory.mktemp("alone") / "clip.mp4", (320, 240), 60)
    try:
        return trace_nvdec(str(clip))
    except (EngineError, av.error.FFmpegError):  # then the graph decodes on the CPU
        return CudaTrace(), 1


def test_a_graph_on_the_gpu_never_waits_for_the_whole_device(graph, default_stream, nvdec_alone, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", (320, 240), 30)
    # Live, so that it runs at the clip's pace and does not end too early.
    run = Run(graph, {f"camera{n}": str(clip) for n in range(STREAMS)}, live=True)
    run.start()
    try:
        assert not run.wait(WARM_S), "it ended at once"
        with cuda_trace() as trace:
            before = run.stats()
            assert not run.wait(TRACED_S)
            lately = run.stats().since(before)
    finally:
        run.stop()
        run.finish()
    frames = lately.finished
    assert frames >= 10
    assert sum(stream.instances for stream in lately.streams) == PERSONS * frames
    alone, frames_alone = nvdec_alone
    share = (frames + IN_FLIGHT) / frames_alone
    assert trace.device_wide <= share * alone.device_wide, (trace, alone)
    assert on_stream(trace, default_stream) <= share * on_stream(alone, default_stream), (trace, alone)
    assert not ALLOCATING & trace.calls.keys(), trace
    # Only results come back: far less than the smallest picture or output of a model.
    assert 0 < trace.bytes["DtoH"] / frames < 64_000, trace
    assert trace.bytes["HtoD"] / frames < 64_000, trace
