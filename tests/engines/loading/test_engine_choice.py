"""Which backend runs which file on which device, and the errors if none can."""

import logging
from pathlib import Path

import numpy as np
import pytest

import engines.device.names as device_names
import engines.loading.engine_choice as engine_choice
from engines.backends.onnxruntime import OnnxEngine
from engines.errors import ContractError, EngineError
from engines.loading.engine_choice import BACKENDS, engine_choices, runs_file
from engines.loading.load import load_engine
from engines.tensorrt import open_plan as plans
from engines.tensorrt import plan_search
from tests.support.models.toy_models import contract, save

POSE = contract("simcc")
PLAN = object()  # stands for a plan that fits


@pytest.mark.parametrize(
    ("file", "backends"),
    [
        ("m.tflite", {"litert"}),
        ("m.pth", {"torch"}),
        ("m.safetensors", {"torch"}),
        ("m.onnx", {"onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx"}),
    ],
)
def test_which_backends_run_a_file(file, backends):
    assert {
        backend for backend in BACKENDS if backend != "auto" and runs_file(backend, Path(file))
    } == backends
    with pytest.raises(EngineError, match=f"cannot run {file}"):
        load_engine(POSE, path=Path(file), backend="torch" if file == "m.onnx" else "onnxruntime")


def gpus(monkeypatch, count):
    for module in (device_names, engine_choice):
        monkeypatch.setattr(module, "cuda_devices", lambda: count)


def machine(monkeypatch, *, devices, built, providers):
    """GPUs, plans and providers of ONNX Runtime; returns the devices for which plans are asked for."""
    asked = []

    class ModelPlans:
        def __init__(self, contract, onnx):
            pass

        def find(self, backend, device):
            asked.append(device)
            return PLAN if backend in built else None

        require = find

    gpus(monkeypatch, devices)
    monkeypatch.setattr(plan_search, "ModelPlans", ModelPlans)
    monkeypatch.setattr(engine_choice, "find_spec", lambda module: module)
    monkeypatch.setattr(
        engine_choice, "_providers", lambda: [f"{name}ExecutionProvider" for name in providers]
    )
    return asked


def backends_in_turn(*arguments):
    return [choice.backend for choice in engine_choices(POSE, *arguments)]


@pytest.mark.parametrize(
    ("devices", "built", "providers", "in_turn"),
    [
        (0, [], ["CUDA"], ["onnxruntime"]),
        (1, [], ["CPU"], ["onnxruntime"]),
        (1, [], ["CUDA"], ["onnxruntime-cuda", "onnxruntime"]),
        (1, ["tensorrt-rtx"], ["CUDA"], ["tensorrt-rtx", "onnxruntime-cuda", "onnxruntime"]),
    ],
)
def test_auto_takes_the_fastest_backend_of_this_machine(monkeypatch, devices, built, providers, in_turn):
    machine(monkeypatch, devices=devices, built=built, providers=providers)
    assert backends_in_turn(Path("m.onnx")) == in_turn


def test_auto_tries_the_next_backend_if_a_plan_fails_and_says_why(tmp_path, caplog, monkeypatch):
    def beyond(*_):
        raise EngineError("the plan is beyond the model's tolerance")

    machine(monkeypatch, devices=1, built=["tensorrt"], providers=["CPU"])
    monkeypatch.setattr(plans, "open_plan", beyond)
    path = save(POSE, tmp_path / "toy.onnx")
    with caplog.at_level(logging.INFO, "posestream.engine"):
        engine = load_engine(POSE, path=path)
    assert isinstance(engine, OnnxEngine)
    assert [(it.levelname, it.message.partition(" (")[0]) for it in caplog.records] == [
        ("INFO", "toy: tensorrt"),
        ("WARNING", "toy: a faster backend failed: the plan is beyond the model's tolerance"),
        ("INFO", "toy: onnxruntime"),
    ]
    # A named backend is never replaced.
    with pytest.raises(EngineError, match="beyond the model's tolerance"):
        load_engine(POSE, path=path, backend="tensorrt")


@pytest.mark.parametrize(
    ("gpu_count", "device", "message"),
    [
        (2, "cuda:2", "there is no device cuda:2, the driver finds 2 GPUs, from cuda:0 on; check"),
        (1, "cuda:1", "there is no device cuda:1, the driver finds 1 GPU, from cuda:0 on; check"),
        (0, "cuda", "there is no device cuda, the driver finds no GPU; check"),
        (1, "gpu", "device 'gpu' is unknown, expected cpu, cuda, or cuda:1"),
        (1, "cuda:", "device 'cuda:' is unknown"),
        (1, "cuda:-1", "device 'cuda:-1' is unknown"),
    ],
)
def test_unknown_and_missing_devices_are_refused(monkeypatch, tmp_path, gpu_count, device, message):
    gpus(monkeypatch, gpu_count)
    with pytest.raises(EngineError, match=message):
        load_engine(POSE, path=tmp_path / "m.onnx", device=device)


@pytest.mark.parametrize(
    ("file", "device", "providers", "in_turn"),
    [
        ("m.onnx", "cpu", ["CUDA"], ["onnxruntime"]),
        ("m.onnx", "cuda:1", ["CUDA"], ["tensorrt", "onnxruntime-cuda"]),
        ("m.onnx", "cuda:1", ["CPU"], ["tensorrt"]),
        ("m.pth", "cuda:1", ["CPU"], ["torch"]),
        ("m.pth", "cpu", ["CPU"], ["torch"]),
        ("m.tflite", "cpu", ["CPU"], ["litert"]),
        ("m.tflite", "cuda:1", ["CPU"], []),
    ],
)
def test_auto_takes_only_backends_for_the_named_device(monkeypatch, file, device, providers, in_turn):
    asked = machine(monkeypatch, devices=2, built=["tensorrt"], providers=providers)
    if in_turn:
        assert backends_in_turn(Path(file), "auto", device) == in_turn
    else:
        with pytest.raises(EngineError, match="nothing here runs"):
            backends_in_turn(Path(file), "auto", device)
    assert set(asked) <= {device}


def test_no_backend_for_the_named_device(monkeypatch, tmp_path):
    machine(monkeypatch, devices=2, built=[], providers=["CPU"])
    path = save(POSE, tmp_path / "toy.onnx")
    with pytest.raises(
        EngineError, match=r"^toy: nothing here runs toy\.onnx on cuda:1; .* engine build toy"
    ):
        load_engine(POSE, path=path, device="cuda:1")
    with pytest.raises(EngineError, match=r"^toy: onnxruntime does not run on cuda:1; leave out"):
        load_engine(POSE, path=path, backend="onnxruntime", device="cuda:1")
    with pytest.raises(EngineError, match=r"^toy: tensorrt does not run on cpu; leave out"):
        load_engine(POSE, path=path, backend="tensorrt", device="cpu")
    assert load_engine(POSE, path=path, device="cpu").device == "cpu"


def test_a_contract_error_does_not_try_the_next_backend(tmp_path, monkeypatch):
    def another(*_):
        raise ContractError("contract says 192x256")

    machine(monkeypatch, devices=1, built=["tensorrt"], providers=["CPU"])
    monkeypatch.setattr(plans, "open_plan", another)
    with pytest.raises(ContractError, match="192x256"):
        load_engine(POSE, path=save(POSE, tmp_path / "toy.onnx"))


def test_a_file_that_no_backend_runs_raises_the_last_error(tmp_path, monkeypatch):
    machine(monkeypatch, devices=1, built=[], providers=["CUDA"])
    (tmp_path / "toy.onnx").write_bytes(b"no model")
    with pytest.raises(EngineError, match=r"toy\.onnx: not a model that ONNX Runtime can load"):
        load_engine(POSE, path=tmp_path / "toy.onnx")


def test_auto_logs_the_backend_and_the_reason(tmp_path, caplog, monkeypatch):
    gpus(monkeypatch, 0)
    path = save(POSE, tmp_path / "toy.onnx")
    with caplog.at_level(logging.INFO, "posestream.engine"):
        load_engine(POSE, path=path).close()
    assert caplog.messages == ["toy: onnxruntime (on the CPU: no CUDA device)"]
    caplog.clear()
    load_engine(POSE, path=path, backend="onnxruntime").close()
    assert caplog.messages == []


def test_an_unknown_backend(tmp_path):
    with pytest.raises(EngineError, match="no backend 'onnx-runtime'; did you mean 'onnxruntime'"):
        load_engine(POSE, path=tmp_path / "m.onnx", backend="onnx-runtime")


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_checkpoint_runs_by_pytorch(small_home, device):
    engine = load_engine(small_home.contract, backend="torch", device=device)
    found, expected = (
        it.run({"input": small_home.batch}) for it in (engine, OnnxEngine(small_home.exported.path))
    )
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-4)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run({"input": small_home.batch})
