import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime.datasets import get_example

from engines.backends.base import TensorSpec
from engines.backends.onnxruntime import OnnxEngine, _providers, load_cuda
from engines.contracts.contract import load_contract
from engines.errors import EngineError
from engines.loading.load import load_engine


@pytest.fixture
def sigmoid():
    return OnnxEngine(Path(get_example("sigmoid.onnx")))  # comes with ONNX Runtime


def test_outputs_and_tensor_specs(sigmoid):
    x = np.linspace(-3, 3, 60, dtype=np.float32).reshape(3, 4, 5)
    assert sigmoid.inputs == {"x": TensorSpec((3, 4, 5), np.dtype(np.float32))}
    assert sigmoid.outputs == {"y": TensorSpec((3, 4, 5), np.dtype(np.float32))}
    np.testing.assert_allclose(sigmoid.run({"x": x})["y"], 1 / (1 + np.exp(-x)), rtol=1e-5)


def test_a_batch_of_no_items(sigmoid):
    assert sigmoid.run({"x": np.empty((0, 4, 5), np.float32)})["y"].shape == (0, 4, 5)


def test_wrong_arrays_give_an_error_of_one_line(sigmoid):
    with pytest.raises(EngineError, match=r"invalid dimensions.*Got: 2 Expected: 3") as error:
        sigmoid.run({"x": np.empty((2, 4, 5), np.float32)})
    assert "\n" not in str(error.value)


def test_a_closed_engine_says_so(sigmoid):
    sigmoid.close()
    with pytest.raises(EngineError, match="closed"):
        sigmoid.run({"x": np.empty((3, 4, 5), np.float32)})


@pytest.mark.models
def test_a_graph_fixed_to_one_item_runs_several(weights):
    contract = load_contract("yolox-nano")
    engine = load_engine(contract, path=weights("yolox-nano"))
    images = np.random.default_rng(0).uniform(0, 255, (3, 3, 416, 416)).astype(np.float32)
    together = engine.run({"images": images})["output"]
    alone = [engine.run({"images": images[i : i + 1]})["output"][0] for i in range(3)]
    np.testing.assert_array_equal(together, np.stack(alone))


@pytest.mark.models
def test_without_optimisation_the_outputs_agree(weights):
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)
    path = weights("yolox-nano")
    fast, plain = (OnnxEngine(path, optimised=it).run({"images": image})["output"] for it in (True, False))
    assert not np.array_equal(fast, plain)
    np.testing.assert_allclose(fast, plain, atol=1e-3)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_the_providers_get_the_number_of_the_gpu(device):
    named = [entry for entry in _providers(device, 3) if not isinstance(entry, str)]
    assert len(named) == (1 if device == "cuda" else 2)
    assert all(options["device_id"] == 3 for _, options in named)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_provider_that_this_build_lacks(device):
    if f"{device}ExecutionProvider".lower() in map(str.lower, onnxruntime.get_available_providers()):
        pytest.skip(f"this build has {device}")
    with pytest.raises(EngineError, match=f"onnxruntime-{device} needs .*pip install onnxruntime-gpu"):
        OnnxEngine(Path(get_example("sigmoid.onnx")), provider=device)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_on_the_gpu_the_outputs_agree(small_home, device):
    if f"{device}ExecutionProvider".lower() not in map(str.lower, onnxruntime.get_available_providers()):
        pytest.skip(f"this build of ONNX Runtime has no {device}")
    path = small_home.exported.path
    found, expected = (
        OnnxEngine(path, provider=it).run({"input": small_home.batch}) for it in (device, "cpu")
    )
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=5e-3)  # TF32


@pytest.fixture
def loads(monkeypatch):
    """What `load_cuda` loads, in order."""
    found = []
    monkeypatch.setattr(onnxruntime, "loads", found, raising=False)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: found.append("CUDA"), raising=False)
    return found


def test_pytorch_loads_its_cuda_before_the_runtime_looks_for_it(loads, monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text('import onnxruntime\nonnxruntime.loads.append("PyTorch")\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    load_cuda()
    assert loads == ["PyTorch", "CUDA"]


def test_without_pytorch_the_runtime_looks_for_cuda_itself(loads, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    load_cuda()
    assert loads == ["CUDA"]
