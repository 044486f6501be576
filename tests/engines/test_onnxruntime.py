from pathlib import Path

import numpy as np
import pytest
from onnxruntime.datasets import get_example

from engines.backends.base import TensorSpec
from engines.backends.onnxruntime import OnnxEngine
from engines.contract import load_contract
from engines.errors import EngineError
from engines.load import load_engine


@pytest.fixture
def sigmoid():
    return OnnxEngine(Path(get_example("sigmoid.onnx")))  # comes with ONNX Runtime


def test_it_runs_and_says_what_it_is(sigmoid):
    x = np.linspace(-3, 3, 60, dtype=np.float32).reshape(3, 4, 5)
    assert sigmoid.inputs == {"x": TensorSpec((3, 4, 5), np.dtype(np.float32))}
    assert sigmoid.outputs == {"y": TensorSpec((3, 4, 5), np.dtype(np.float32))}
    np.testing.assert_allclose(sigmoid.run({"x": x})["y"], 1 / (1 + np.exp(-x)), rtol=1e-5)


def test_no_items_run_nothing(sigmoid):
    assert sigmoid.run({"x": np.empty((0, 4, 5), np.float32)})["y"].shape == (0, 4, 5)


def test_wrong_arrays_are_one_line(sigmoid):
    with pytest.raises(EngineError, match=r"invalid dimensions.*Got: 2 Expected: 3") as error:
        sigmoid.run({"x": np.empty((2, 4, 5), np.float32)})
    assert "\n" not in str(error.value)


def test_a_closed_engine_says_so(sigmoid):
    sigmoid.close()
    with pytest.raises(EngineError, match="closed"):
        sigmoid.run({"x": np.empty((3, 4, 5), np.float32)})


@pytest.mark.models
def test_a_graph_for_one_item_runs_several(weights):
    contract = load_contract("yolox-nano")
    engine = load_engine(contract, path=weights("yolox-nano"))
    images = np.random.default_rng(0).uniform(0, 255, (3, 3, 416, 416)).astype(np.float32)
    together = engine.run({"images": images})["output"]
    alone = [engine.run({"images": images[i : i + 1]})["output"][0] for i in range(3)]
    np.testing.assert_array_equal(together, np.stack(alone))
