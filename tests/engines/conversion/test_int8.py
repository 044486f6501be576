"""INT8 of the small real model: which convolutions, the notes in the file, and what is refused."""

import numpy as np
import pytest

from engines.assets.model_files import runnable
from engines.backends.onnxruntime import OnnxEngine
from engines.contracts.onnx_metadata import is_quantised, quantised_from, read_contract
from engines.conversion import int8
from engines.conversion.int8 import quantise
from engines.errors import EngineError
from engines.verification.verify_model import verify_model

onnx = pytest.importorskip("onnx")


def inputs(small, count=6):
    """Real inputs in several contrasts."""
    return [small.batch[n % 3][None] * np.float32(1 - 0.05 * n) for n in range(count)]


@pytest.fixture
def made(small_home):
    return quantise(small_home.contract, small_home.exported.path, inputs(small_home))


def test_all_but_the_sensitive_convolutions_are_in_int8_with_symmetric_scales(made):
    model = onnx.load(made.path)
    constants = {it.name: onnx.numpy_helper.to_array(it) for it in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero_point = constants[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
    dequantised = {node.output[0]: node for node in pairs if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    in_int8 = [node for node in convolutions if set(node.input[:2]) <= dequantised.keys()]
    kept = int8.kept_in_float(model)
    assert {node.name for node in convolutions} - kept == {node.name for node in in_int8}
    assert len(in_int8) > len(convolutions) / 3
    scales = [constants[dequantised[node.input[1]].input[1]] for node in in_int8]
    assert all(scale.ndim == 1 and scale.size > 1 for scale in scales)


def test_weights_lie_within_half_a_step_of_the_originals(small_home, made):
    original, model = onnx.load(small_home.exported.path), onnx.load(made.path)
    weights, quantised = (
        {it.name: onnx.numpy_helper.to_array(it) for it in one.graph.initializer} for one in (original, model)
    )
    of_weights = {
        node.output[0]: [quantised[name] for name in node.input[:2]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in quantised
    }
    compared = 0
    for before, after in zip(convolutions(original), convolutions(model), strict=True):
        if after.input[1] in of_weights:
            steps_int8, scales = of_weights[after.input[1]]
            steps = scales[:, None, None, None]
            assert (np.abs(steps_int8 * steps - weights[before.input[1]]) <= 0.5001 * steps).all()
            assert (np.abs(steps_int8).max(axis=(1, 2, 3)) == 127).all()  # the whole range is used
            compared += 1
    assert compared > len(convolutions(original)) / 3


def test_ranges_come_from_the_calibration_inputs(small_home, made):
    """Calibrated on far smaller inputs, it clips most values."""
    narrow = quantise(small_home.contract, made.source, [one * 0.1 for one in inputs(small_home)])
    assert 1.5 * error(small_home, made.path) < error(small_home, narrow.path)


def convolutions(model):
    return [node for node in model.graph.node if node.op_type == "Conv"]


def error(small, path):
    """The norm of the errors as a fraction of the norm of the outputs."""
    expected, found = (
        OnnxEngine(it).run({"input": small.batch})["simcc_x"] for it in (small.exported.path, path)
    )
    return np.linalg.norm(expected - found) / np.linalg.norm(expected)


def test_the_file_names_its_source_and_is_compared_with_it(small_home, made):
    assert read_contract(made.path) == small_home.contract
    assert is_quantised(made.path)
    assert not is_quantised(small_home.exported.path)
    assert quantised_from(made.path)["calibrated_on"] == made.calibrated_on == 5
    assert runnable(small_home.contract) == small_home.exported.path
    assert made.comparison.compared_on == "1 held-out inputs"
    report = verify_model(small_home.contract, path=made.path)
    assert max(error.max for error in report.outputs.values()) > 0


def test_the_same_inputs_make_the_same_file_once(small_home, made):
    again = quantise(small_home.contract, small_home.exported.path, inputs(small_home))
    assert (made.path, False) == (again.path, again.fresh)
    content = made.path.read_bytes()
    assert quantise(small_home.contract, made.source, inputs(small_home), force=True).fresh
    assert made.path.read_bytes() == content
    other = quantise(small_home.contract, made.source, inputs(small_home, 5))
    assert other.path != made.path


def test_unsuitable_files_and_too_few_inputs_are_refused(small_home, made, tmp_path, monkeypatch):
    contract, source = small_home.contract, small_home.exported.path
    with pytest.raises(EngineError, match="0 inputs to calibrate on, expected 5 or more"):
        quantise(contract, source, [])
    with pytest.raises(EngineError, match=r"a\.tflite is not ONNX"):
        quantise(contract, tmp_path / "a.tflite", [])
    with pytest.raises(EngineError, match="is quantised already"):
        quantise(contract, made.path, [])
    monkeypatch.setattr(int8, "find_spec", lambda library: None)
    with pytest.raises(EngineError, match="needs onnx, which is not installed"):
        quantise(contract, source, [])
