"""Which backend runs which file, and what is told where none can."""

import logging
from pathlib import Path

import numpy as np
import pytest

import engines.backends.choice as choice
from engines.backends.choice import BACKENDS, choose, suits
from engines.backends.onnxruntime import OnnxEngine
from engines.errors import EngineError
from engines.load import load_engine
from tests.toy_models import contract, save

POSE = contract("simcc")


@pytest.mark.parametrize(
    ("file", "backends"),
    [
        ("m.tflite", {"litert"}),
        ("m.pth", {"torch"}),
        ("m.safetensors", {"torch"}),
        ("m.onnx", {"onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx"}),
    ],
)
def test_what_runs_a_file(file, backends):
    assert {backend for backend in BACKENDS if backend != "auto" and suits(backend, Path(file))} == backends
    with pytest.raises(EngineError, match=f"cannot run {file}"):
        load_engine(POSE, path=Path(file), backend="torch" if file == "m.onnx" else "onnxruntime")


@pytest.mark.parametrize(
    ("devices", "plan", "providers", "chosen"),
    [
        (0, None, ["CUDAExecutionProvider"], "onnxruntime"),
        (1, None, ["CPUExecutionProvider"], "onnxruntime"),
        (1, None, ["CUDAExecutionProvider"], "onnxruntime-cuda"),
        (1, "tensorrt-rtx", ["CUDAExecutionProvider"], "tensorrt-rtx"),
    ],
)
def test_auto_takes_the_fastest_that_is_here(monkeypatch, devices, plan, providers, chosen):
    monkeypatch.setattr(choice, "cuda_devices", lambda: devices)
    monkeypatch.setattr(choice, "_plan", lambda *_: plan)
    monkeypatch.setattr(choice, "_providers", lambda: providers)
    assert choose(POSE, Path("m.onnx"))[0] == chosen


def test_auto_says_what_it_took_and_why(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(choice, "cuda_devices", lambda: 0)
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


def test_a_checkpoint_runs_by_pytorch(small_home):
    engine = load_engine(small_home.contract, backend="torch")
    found, expected = (
        it.run({"input": small_home.batch}) for it in (engine, OnnxEngine(small_home.exported.path))
    )
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-4)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run({"input": small_home.batch})
