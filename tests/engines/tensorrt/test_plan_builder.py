"""Building plans, finding them, and opening them, as far as the machine has a GPU."""

import hashlib
import os
import threading

import pytest
from filelock import FileLock

from engines.device.gpus import this_gpu
from engines.errors import EngineError
from engines.loading.load import load_engine
from engines.tensorrt.network import Batch
from engines.tensorrt.plan_builder import build_plan
from engines.tensorrt.plan_files import kept_plans, onnx_sha256
from engines.tensorrt.plan_search import ModelPlans, judge_plans
from tests.support.devices.compiled_here import skip_unless_built_here


@pytest.mark.parametrize("text", ["", "8", "1:2", "1:2:3:4", "0:1:2", "4:2:8", "1:8:4", "a:b:c"])
def test_a_batch_is_three_growing_sizes(text):
    with pytest.raises(EngineError, match="1:8:32"):
        Batch.parse(text)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A model, its ONNX file, and a function that builds its plan ahead of time, in an empty cache."""
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("onnx")
    from tests.support.models.compilable import landmarks, landmarks_onnx

    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path))
    model, onnx = landmarks(), landmarks_onnx(tmp_path)

    def build(**options):
        return build_plan(model, onnx, "tensorrt-rtx", "fp32", compute_capability="8.9", **options)

    return model, onnx, build


def test_a_plan_is_kept_with_its_record_and_built_once(tiny):
    model, onnx, build = tiny
    plan, fresh = build()
    assert fresh
    assert kept_plans() == [plan]
    assert len(plan.read()) == plan.size
    assert plan.verified is None
    assert plan.contract == model
    assert plan.key.onnx_sha256 == onnx_sha256(onnx)
    assert (plan.key.gpu, plan.key.driver, plan.key.batch) == (None, None, (1, 8, 32))
    assert build() == (plan, False)
    other, fresh = build(batch=Batch(1, 1, 4))
    assert fresh
    assert {kept.path for kept in kept_plans()} == {plan.path, other.path}


def test_a_damaged_plan_is_refused_and_built_again(tiny):
    _, _, build = tiny
    plan, _ = build()
    plan.path.write_bytes(plan.path.read_bytes()[:-1])
    command = "--backend tensorrt-rtx --precision fp32 --batch 1:8:32 --compute-capability 8.9"
    with pytest.raises(EngineError, match=f"is damaged .* posestream engine build landmarks {command}"):
        plan.read()
    again, fresh = build()
    assert fresh
    assert again.is_intact()


def test_an_unreadable_record_is_ignored(tiny):
    _, _, build = tiny
    plan, _ = build()
    plan.path.with_suffix(".json").write_text('{"key": {}}')
    assert kept_plans() == []
    assert build().fresh


def test_a_second_builder_of_the_same_plan_waits_for_it(tiny):
    _, _, build = tiny
    plan, _ = build()
    plan.delete()
    built = []
    with FileLock(plan.path.with_suffix(".lock")):  # held by the process that builds it
        waiting = threading.Thread(target=lambda: built.append(build()))
        waiting.start()
        waiting.join(1)
        assert not built
        plan.path.write_bytes(b"what the other process built")
        content = plan.model_copy(
            update={"sha256": hashlib.sha256(plan.path.read_bytes()).hexdigest(), "size": 28}
        )
        content.write()
    waiting.join(30)
    assert built == [(content, False)]


def test_nothing_is_opened_without_a_gpu(tiny):
    if this_gpu():
        pytest.skip("there is a GPU")
    model, onnx, build = tiny
    plan, _ = build()
    with pytest.raises(EngineError, match=r"^tensorrt-rtx: no CUDA device found; check that nvidia-smi"):
        load_engine(model, path=onnx, backend="tensorrt-rtx")
    assert ModelPlans(model, onnx).find("tensorrt-rtx", "cuda:0") is None
    assert judge_plans([plan]) == [(["tensorrt-rtx: no CUDA device found"], False)]


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def backend(request):
    """Each installed flavour, on a machine with a GPU that it knows."""
    skip_unless_built_here(request.param)
    return request.param


@pytest.mark.gpu
def test_a_plan_for_this_gpu_is_verified_and_found(backend, tmp_path, monkeypatch):
    from tests.support.models.compilable import landmarks, landmarks_onnx

    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path))
    model, onnx = landmarks(), landmarks_onnx(tmp_path)
    plan, _ = build_plan(model, onnx, backend, "fp32")
    assert plan.verified.gpu == plan.key.gpu == this_gpu().name
    assert ModelPlans(model, onnx).find(backend, "cuda:0") == plan
    os.utime(onnx)
    assert ModelPlans(model, onnx).find(backend, "cuda:0") == plan  # its content counts, not its date
    onnx.write_bytes(onnx.read_bytes() + b"\0")
    assert ModelPlans(model, onnx).find(backend, "cuda:0") is None
    with pytest.raises(EngineError, match=r"ONNX file .*posestream engine build landmarks"):
        load_engine(model, path=onnx, backend=backend)


@pytest.mark.gpu
def test_a_plan_beyond_the_tolerance_is_not_kept(backend, tmp_path, monkeypatch):
    from tests.support.models.compilable import landmarks, landmarks_onnx

    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path))
    model = landmarks()
    tolerance = model.tolerance.model_copy(update={"keypoint_px": 1e-9, "score": 1e-9})
    strict = model.model_copy(update={"tolerance": tolerance})
    with pytest.raises(EngineError, match="beyond the model's tolerance"):
        build_plan(strict, landmarks_onnx(tmp_path), backend, "fp16")
    assert kept_plans() == []
