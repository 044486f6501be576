"""Heatmaps against MMPose's own functions."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.contracts.contract import load_contract
from engines.device.arrays import mean

ORIGINAL = json.loads((Path(__file__).parents[1] / "topdown_original.json").read_text())["heatmap"]
MIRROR = np.arange(24).reshape(-1, 2)[:, ::-1].ravel()


def contract(case):
    base = load_contract("hrnet-w32-coco")
    codec = base.codec.model_copy(
        update={key: case[key] for key in ("refine", "udp", "sigma")} | {"size": tuple(case["cells"])}
    )
    model_input = base.input.model_copy(update={"size": tuple(case["size"])})
    return base.model_copy(update={"codec": codec, "input": model_input})


def gaussians(seed, case):
    """(1, 24, h, w) float32: peaks anywhere, also at edges, each with a weaker second peak and noise."""
    random = np.random.default_rng(seed)
    width, height = case["cells"]
    y, x = np.mgrid[:height, :width]

    def peak(at):
        return np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * case["sigma"] ** 2))

    maps = []
    for _ in range(24):
        centre, other = random.uniform(0, 1, (2, 2)) * (width - 1, height - 1)
        maps.append(random.uniform(0.2, 1) * peak(centre) + 0.15 * peak(other))
        maps[-1] += random.normal(0, 0.004, (height, width))
    return np.array(maps, np.float32)[None]


def in_mmpose_px(points, case):
    """With UDP, MMPose's px are (w - 1) / w as long; its mapping back to the frame compensates for that."""
    return points * [side / (side - case["udp"]) for side in case["size"]]


@pytest.mark.parametrize("case", ORIGINAL, ids=lambda case: f"{case['refine']}-{case['udp']}-{case['size']}")
class TestOriginal:
    def test_points_and_scores(self, case, arrays):
        points, scores = arrays.decode(contract(case), {"heatmaps": gaussians(case["seed"], case)})
        np.testing.assert_allclose(in_mmpose_px(points[0], case), case["points"], atol=1e-4)
        np.testing.assert_allclose(scores[0], case["scores"], atol=1e-6)
        assert points.dtype == scores.dtype == np.float32

    def test_a_flip_test(self, case, arrays):
        maps = arrays.place({"heatmaps": gaussians(case["seed"], case)})
        mirrored = arrays.place({"heatmaps": gaussians(100 + case["seed"], case)})
        back = contract(case).codec.mirror_back(mirrored, MIRROR)
        points, _ = arrays.decode(contract(case), mean(maps, back))
        np.testing.assert_allclose(in_mmpose_px(points[0], case), case["flip_points"], atol=1e-4)


@pytest.mark.parametrize(("refine", "error_px"), [("none", 2.0), ("quarter", 1.5), ("dark", 0.02)])
def test_refinement_finds_positions_between_cells(refine, error_px, arrays):
    case = {"cells": (48, 64), "size": (192, 256), "sigma": 2, "refine": refine, "udp": False}
    y, x = np.mgrid[:64, :48]
    centre = np.array([20.37, 31.71])
    maps = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 8).astype(np.float32)
    points, _ = arrays.decode(contract(case), {"heatmaps": maps[None, None]})
    assert np.abs(points[0, 0] - 4 * centre).max() < error_px


@pytest.mark.parametrize("case", ORIGINAL[:3], ids=lambda case: f"{case['refine']}-{case['udp']}")
def test_empty_and_flat_maps(case, arrays):
    """A map without a value above 0 has no keypoint; a flat map above 0 has one at a finite position."""
    maps = np.zeros((2, 2, 64, 48), np.float32)
    maps[0, 1] = -1
    maps[1] = 0.5
    points, scores = arrays.decode(contract(case), {"heatmaps": maps})
    assert np.isnan(points[0]).all()
    assert np.isfinite(points[1]).all()
    assert scores.tolist() == [[0, -1], [0.5, 0.5]]
    points, scores = arrays.decode(contract(case), {"heatmaps": maps[:0]})
    assert (points.shape, scores.shape) == ((0, 2, 2), (0, 2))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.sampled_from(ORIGINAL),
    seed=st.integers(0, 10_000),
    height=st.sampled_from([0.005, 1, 200]),  # between and beyond the limits of DARK's logarithm
    dtype=st.sampled_from([np.float32, np.float16]),
)
def test_tensors_and_arrays_agree(case, seed, height, dtype, tensors):
    """Cells near a peak are rounded differently; where a limit clips them almost flat, that moves the point."""
    outputs = {"heatmaps": (height * gaussians(seed, case)).astype(dtype)}
    codec = contract(case).codec
    reduced, expected = (codec.reduce(place(outputs)) for place in (tensors.place, dict))
    reduced = {name: tensor.numpy() for name, tensor in reduced.items()}
    assert reduced.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(reduced[name], array, atol=2e-6 * height if name == "near" else 0)
    if height == 1:
        points, their_points = (codec.finish(one, tuple(case["size"]))[0] for one in (reduced, expected))
        cells = np.array(case["cells"]) / case["size"]
        np.testing.assert_allclose(points * cells, their_points * cells, atol=1e-4)
