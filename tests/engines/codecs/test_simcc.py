"""SimCC against MMPose's own functions."""

import json
from pathlib import Path

import numpy as np
import pytest

from engines.contracts.contract import load_contract
from engines.device.arrays import mean

ORIGINAL = json.loads((Path(__file__).parents[1] / "topdown_original.json").read_text())["simcc"]
CONTRACT = load_contract("rtmpose-m-body8")  # 2 bins a px of 192x256


@pytest.fixture
def outputs():
    """3 instances with 5 keypoints; one keypoint has no bin above 0 along x."""
    random = np.random.default_rng(ORIGINAL["seed"])
    x, y = (random.normal(0, 0.5, (3, 5, bins)).astype(np.float32) for bins in (384, 512))
    x[1, 2] = -1
    return {"simcc_x": x, "simcc_y": y}


def test_points_and_scores_match_mmpose(outputs, arrays):
    points, scores = arrays.decode(CONTRACT, outputs)
    np.testing.assert_allclose(scores, ORIGINAL["scores"], atol=1e-6)
    expected = np.array(ORIGINAL["points"])
    assert expected[1, 2].tolist() == [-0.5, -0.5]  # MMPose's value for no keypoint
    assert np.isnan(points[1, 2]).all()
    expected[1, 2] = np.nan
    np.testing.assert_allclose(points, expected, atol=1e-6)
    assert points.dtype == scores.dtype == np.float32


def test_a_flip_test_matches_mmpose(outputs, arrays):
    outputs = arrays.place(outputs)
    back = CONTRACT.codec.mirror_back(outputs, np.array([0, 2, 1, 4, 3]))
    points, _ = arrays.decode(CONTRACT, mean(outputs, back))
    np.testing.assert_allclose(points, ORIGINAL["flip_points"], atol=1e-6)


def test_scores_are_not_clipped(outputs, arrays):
    _, scores = arrays.decode(CONTRACT, {role: 3 * bins for role, bins in outputs.items()})
    np.testing.assert_allclose(scores, 3 * np.array(ORIGINAL["scores"]), atol=1e-5)
    assert scores.max() > 3


def test_half_precision_gives_single_precision_results(outputs, arrays, on_host):
    half = {role: bins.astype(np.float16) for role, bins in outputs.items()}
    found = arrays.decode(CONTRACT, half)
    single = {role: bins.astype(np.float32) for role, bins in half.items()}
    expected = on_host.decode(CONTRACT, single)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.float32


def test_no_instances(outputs, arrays):
    points, scores = arrays.decode(CONTRACT, {role: bins[:0] for role, bins in outputs.items()})
    assert (points.shape, scores.shape) == ((0, 5, 2), (0, 5))
