"""Comparing engines: the arithmetic with made-up outputs, and real engines."""

import json

import numpy as np
import pytest

from engines.backends.base import TensorSpec
from engines.comparison.compare import compare_engines
from engines.contracts.contract import load_contract
from engines.errors import EngineError
from engines.verification.verify_model import verify_model
from tests.support.models.toy_models import contract as toy

POSE, DETECTOR = toy("simcc"), load_contract("yolox-nano")


class Canned:
    """An engine with fixed outputs."""

    def __init__(self, **outputs):
        self.canned = outputs
        self.inputs = {"in": TensorSpec((-1, 3, 64, 48), np.dtype(np.float32))}
        self.outputs = {name: TensorSpec(array.shape, array.dtype) for name, array in outputs.items()}

    def run(self, inputs):
        return self.canned

    def close(self):
        pass


def simcc(moved_bins=0, moved=17, height=1.0, nothing=0):
    """Peaks of 17 keypoints in 3 crops; the first `moved` are a few bins off, the first `nothing` have no peak."""
    outputs = {name: np.zeros((3, 17, bins), np.float32) for name, bins in (("x", 96), ("y", 128))}
    for array in outputs.values():
        array[:, np.arange(17), 20 + np.arange(17) + moved_bins * (np.arange(17) < moved)] = height
        array[:, :nothing] = 0
    return Canned(**outputs)


@pytest.mark.parametrize(
    ("engine", "shift_p95", "score_p95", "lost", "beyond"),
    [
        (simcc(), 0, 0, 0, []),
        (simcc(moved_bins=1), np.sqrt(0.5), 0, 0, ["keypoints: shift p95 in px 0.707, limit 0.5"]),
        (simcc(moved_bins=40, moved=0), 0, 0, 0, []),
        (simcc(height=0.99), 0, 0.01, 0, []),
        (simcc(height=0.9), 0, 0.1, 0, ["keypoints: score p95 0.1, limit 0.02"]),
        (simcc(nothing=4), 0, 0, 12, ["keypoints lost 12, limit 2.55"]),
    ],
)
def test_keypoints(engine, shift_p95, score_p95, lost, beyond):
    comparison = compare_engines(POSE, simcc(), engine)
    assert comparison.meaning.shift_px.p95 == pytest.approx(shift_p95)
    assert comparison.meaning.score.p95 == pytest.approx(score_p95)
    assert (comparison.meaning.lost, comparison.beyond, comparison.passed) == (lost, beyond, not beyond)
    assert json.loads(json.dumps(comparison.as_dict()))["passed"] is comparison.passed


def test_scores_above_one_are_compared_relatively():
    assert compare_engines(POSE, simcc(height=10), simcc(height=9.9)).meaning.score.p95 == pytest.approx(
        0.01, rel=1e-5
    )


def test_nan_does_not_pass():
    broken = simcc()
    broken.canned = {name: array * np.nan for name, array in broken.canned.items()}
    for trained in (True, False):
        assert not compare_engines(POSE, simcc(), broken, trained=trained).passed


def test_with_random_weights_only_raw_outputs_are_judged():
    flat = {name: array + 5 for name, array in simcc(height=1e-3).canned.items()}
    elsewhere = {name: array + 5 for name, array in simcc(height=1e-3, moved_bins=40).canned.items()}
    assert not compare_engines(POSE, Canned(**flat), Canned(**elsewhere)).passed
    comparison = compare_engines(POSE, Canned(**flat), Canned(**elsewhere), trained=False)
    assert (comparison.passed, comparison.meaning) == (True, None)
    assert not compare_engines(POSE, simcc(), simcc(moved_bins=3), trained=False).passed


def yolox(scale=1.0, score=0.8, label=0):
    predictions = np.zeros((3, 3549, 85), np.float32)
    for cell in (60, 700, 2000):
        predictions[:, cell, 2:4], predictions[:, cell, 4] = np.log(4 * scale), score
        predictions[:, cell, 5 + label] = 1
    return Canned(output=predictions)


@pytest.mark.parametrize(
    ("engine", "shift_px", "beyond"),
    [
        (yolox(score=0.79), 0, []),
        (yolox(scale=1.05), 0.8, []),  # 32 px wide: each side moves by 0.8 px
        (yolox(scale=1.1), 1.6, ["boxes: shift p95 in px 1.6, limit 1"]),
        (yolox(score=0.7), 0, ["boxes: score p95 0.1, limit 0.02"]),
        (yolox(label=3), 0, ["boxes lost 9, limit 0.45"]),
    ],
)
def test_boxes(engine, shift_px, beyond):
    comparison = compare_engines(DETECTOR, yolox(), engine)
    assert comparison.meaning.shift_px.p95 == pytest.approx(shift_px, abs=1e-3)
    assert [line for line in comparison.beyond if line.startswith("boxes")] == beyond


def test_outputs_of_another_shape_are_refused():
    other = Canned(x=np.zeros((3, 26, 96), np.float32), y=np.zeros((3, 26, 128), np.float32))
    with pytest.raises(EngineError, match=r"'x' is \(3, 17, 96\) by PyTorch, \(3, 26, 96\) by ONNX Runtime"):
        compare_engines(POSE, simcc(), other)


def test_an_export_is_compared_with_pytorch(small_home):
    comparison = verify_model(small_home.contract)
    assert comparison.passed
    assert comparison.reference == "PyTorch"
    assert comparison.engine == f"onnxruntime on {small_home.exported.path.name}"
    assert comparison.meaning.shift_px == (0, 0, 51)
    assert 0 < comparison.outputs["simcc_x"].max < 1e-4


def test_without_the_checkpoint_the_unoptimised_graph_is_the_reference(small_home, tmp_path, monkeypatch):
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path))
    comparison = verify_model(small_home.contract, path=small_home.exported.path)
    assert comparison.passed
    assert comparison.reference == "ONNX Runtime without optimisation"


def test_a_wrong_file_fails(small_home, tmp_path):
    comparison = verify_model(small_home.contract, path=damaged(small_home, tmp_path))
    assert not comparison.passed
    assert comparison.meaning.shift_px.p95 > 1
    assert comparison.lines()[-1].startswith("beyond tolerance: keypoints: shift p95")


def damaged(small, folder):
    """The export with changed weights, as if from another checkpoint."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(small.exported.path)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) * 1.5).tobytes()
    path = folder / "damaged.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.models
def test_a_tflite_model_has_no_reference(weights):
    with pytest.raises(EngineError, match="no reference"):
        verify_model(load_contract("blazepose-full"), path=weights("blazepose-full"))
