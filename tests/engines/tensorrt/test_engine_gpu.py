"""Plans and networks on a real GPU: inputs of all kinds and sizes, graphs, streams, times, and too little memory."""

import threading
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from engines.backends.onnxruntime import OnnxEngine  # noqa: E402
from engines.backends.pytorch import TorchEngine  # noqa: E402
from engines.device.devices import open_device, thread_stream  # noqa: E402
from engines.device.gpus import this_gpu  # noqa: E402
from engines.device.image import DeviceImage  # noqa: E402
from engines.errors import EngineError  # noqa: E402
from engines.estimators.crops import Crops  # noqa: E402
from engines.tensorrt.engine import TensorrtEngine  # noqa: E402
from engines.tensorrt.flavours import flavour  # noqa: E402
from engines.tensorrt.network import Batch, Network  # noqa: E402
from tests.support.devices.compiled_here import skip_unless_built_here  # noqa: E402
from tests.support.models import compilable  # noqa: E402
from tests.support.models.toy_models import K, contract  # noqa: E402

pytestmark = pytest.mark.gpu
TF32 = 2e-3
LARGEST = 24  # no power of 2, so the plan adds a bucket for it
HOST, ON_DEVICE = np.asarray, lambda batch: torch.from_numpy(batch).to("cuda:0")


class Plan:
    """The landmarks model, compiled for this GPU, and ONNX Runtime on the CPU."""

    def __init__(self, name, folder):
        self.flavour, self.folder = flavour(name), folder
        onnx = compilable.landmarks_onnx(folder)
        network = Network(self.flavour, onnx, compilable.landmarks(), "fp32")
        self.plan = network.compile(
            Batch(2, 8, LARGEST),
            this_gpu().compute_capability,
            folder / "timings.cache",
            lambda phase, share: None,
        )
        self.reference = OnnxEngine(onnx)

    def open(self, device="cuda:0"):
        return TensorrtEngine(self.flavour, self.plan, self.folder / "kept.kernels", device=device)

    def expected(self, batch):
        return self.reference.run({"input": batch})["heatmaps"]


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def plan(request, tmp_path_factory):
    skip_unless_built_here(request.param)
    return Plan(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def engine(plan):
    opened = plan.open()
    yield opened
    opened.close()


def images(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3, 64, 64)).astype(np.float32)


def host(found):
    return found.cpu().numpy() if isinstance(found, torch.Tensor) else found


@pytest.mark.parametrize("kind", [HOST, ON_DEVICE])
def test_batches_of_any_size(plan, engine, kind):
    for count in (0, 1, 2, 3, 4, 8, 9, 16, 17, 24, 25, 70):
        batch = images(count, count)
        found = engine.run({"input": kind(batch)})["heatmaps"]
        assert isinstance(found, np.ndarray if kind is HOST else torch.Tensor)
        np.testing.assert_allclose(host(found), plan.expected(batch), atol=TF32)


def test_replayed_graphs_give_the_same_bits_and_each_size_has_one(plan, engine):
    sizes = [2, 8, LARGEST]
    runs = [
        [engine.run({"input": ON_DEVICE(images(count, count))})["heatmaps"].clone() for count in sizes]
        for _ in range(4)
    ]
    for again in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(runs[0], again, strict=True))
    assert set(engine._graphs.recorded) == (set() if plan.flavour.records_itself else set(sizes))
    other = engine.run({"input": ON_DEVICE(images(8, 99))})["heatmaps"]
    np.testing.assert_allclose(host(other), plan.expected(images(8, 99)), atol=TF32)


def test_crops_of_frames_on_the_gpu(plan, engine):
    device = open_device("cuda:0")
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    on_gpu = torch.from_numpy(picture).to(device.torch_device)
    torch.cuda.synchronize()
    frame = DeviceImage([on_gpu], None, thread_stream(device).record(), device)
    matrices = np.stack([np.array([[0.5, 0, -n], [0, 0.6, n - 2.0]]) for n in range(5)])
    model_input = compilable.landmarks().input
    here, there = (Crops([it], np.zeros(5, int), matrices, model_input) for it in (picture, frame))
    expected = plan.expected(np.asarray(here))
    for _ in range(3):
        found = engine.run({"input": there})["heatmaps"]
        assert found.is_cuda
        np.testing.assert_allclose(host(found), expected, atol=0.02)


def test_the_host_does_not_wait_for_outputs_that_stay_on_the_gpu(engine):
    batch = ON_DEVICE(images(8))
    for _ in range(3):
        engine.run({"input": batch})
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.run({"input": batch})
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_two_engines_in_two_threads_at_once(plan):
    wrong, streams = [], set()

    def work(seed):
        opened = plan.open()
        streams.add(thread_stream(open_device("cuda:0")).handle)
        for n in range(30):
            batch = images(1 + n % LARGEST, seed + n)
            kind = (HOST, ON_DEVICE)[n % 2]
            found = host(opened.run({"input": kind(batch)})["heatmaps"])
            if not np.allclose(found, plan.expected(batch), atol=TF32):
                wrong.append((seed, n))
        opened.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, len(streams)) == ([], 2)


def test_the_times_of_runs_on_the_device(engine):
    engine.time_device()
    for kind in (HOST, ON_DEVICE):
        for count in (4, 30):  # one part, and two
            batch = kind(images(count))
            engine.run({"input": batch})
            torch.cuda.synchronize()
            engine.device_times()
            before = time.monotonic_ns()
            engine.run({"input": batch})
            torch.cuda.synchronize()
            after = time.monotonic_ns()
            ((begin, end),) = engine.device_times()
            assert before - 100_000 < begin < end < after + 100_000
    engine.run({"input": images(0)})
    assert engine.device_times() == ()


def test_a_plan_runs_in_smaller_batches_when_memory_is_too_small(plan):
    opened = plan.open()
    opened.run({"input": images(4)})
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    # No more memory than it has now.
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
    try:
        batch = images(70)
        np.testing.assert_allclose(opened.run({"input": batch})["heatmaps"], plan.expected(batch), atol=TF32)
        assert opened.halved >= 1
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        opened.close()


def test_a_closed_engine_is_an_error(engine):
    engine.close()
    with pytest.raises(EngineError, match="was closed"):
        engine.run({"input": images(1)})


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_an_engine_runs_on_the_chosen_gpu(plan, device):
    if torch.cuda.device_count() <= int(device[-1]):
        pytest.skip(f"no {device}")
    if this_gpu(int(device[-1])) != this_gpu():
        pytest.skip("the second GPU is of another kind, and the plan was built for the first")
    opened = plan.open(device)
    for kind in (HOST, ON_DEVICE):  # ON_DEVICE is on the first GPU
        found = opened.run({"input": kind(images(5))})["heatmaps"]
        assert kind is HOST or str(found.device) == device
        np.testing.assert_allclose(host(found), plan.expected(images(5)), atol=TF32)
    opened.close()


class Hungry(torch.nn.Module):
    """A network that needs 64 MB for each crop while it runs."""

    def forward(self, batch):
        torch.empty(len(batch) << 26, dtype=torch.uint8, device=batch.device).zero_()
        return {"heatmaps": batch[:, torch.arange(K) % 3, ::4, ::4]}


@pytest.mark.parametrize("kind", [HOST, ON_DEVICE])
def test_a_network_runs_in_smaller_batches_when_memory_is_too_small(kind):
    opened = TorchEngine(contract("heatmap"), network=Hungry(), device="cuda:0")
    batch = np.random.default_rng(0).random((64, 3, 64, 48), np.float32)
    given = kind(batch)
    torch.cuda.empty_cache()
    filled = torch.empty(torch.cuda.mem_get_info()[0] - 1500 * 2**20, dtype=torch.uint8, device="cuda:0")
    try:
        found = host(opened.run({"in": given})["maps"])
    finally:
        del filled
        torch.cuda.empty_cache()
    np.testing.assert_array_equal(found, batch[:, np.arange(K) % 3, ::4, ::4])
    assert opened.halved == 2  # 4 GB and 2 GB do not fit, 1 GB does
