"""Detectors read from tensors must give the same as from arrays."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.contracts.contract import load_contract
from tests.support.models import toy_onestage

SETTINGS = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def boxes(random, shape):
    """(…, 4) centre x, y, width, height, in an image of 200 px; many boxes overlap."""
    return np.concatenate([random.uniform(0, 200, (*shape, 2)), random.uniform(10, 80, (*shape, 2))], -1)


def distinct(random, shape):
    """Scores between 0 and 1, all different: the order of equal scores is not defined."""
    return (random.permutation(np.prod(shape)).reshape(shape) + 0.5) / np.prod(shape)


def yolo_outputs(random, images, cells, further=0):
    rows = [boxes(random, (images, cells)), distinct(random, (images, cells, 1))]
    rows.append(random.uniform(0, 200, (images, cells, further)))
    return {"predictions": np.concatenate(rows, axis=2).transpose(0, 2, 1)}


def yolox_outputs(random, images):
    predictions = random.normal(0, 0.5, (images, 3549, 85))
    predictions[..., 2:4] = random.uniform(-1, 2, (images, 3549, 2))
    predictions[..., 4] = distinct(random, (images, 3549)) ** 16  # few good ones, as in real outputs
    predictions[..., 5:] = np.eye(80)[random.integers(0, 80, (images, 3549))]
    return {"predictions": predictions}


def rtmdet_outputs(random, images, cells):
    raw = boxes(random, (images, cells))
    corners = np.concatenate(
        [raw[..., :2], raw[..., :2] + raw[..., 2:], distinct(random, (images, cells, 1))], -1
    )
    return {"boxes": corners, "labels": random.integers(0, 3, (images, cells))}


def case_of(kind, random, images, cells):
    if kind == "yolo":
        return toy_onestage.detector_contract(), yolo_outputs(random, images, cells)
    if kind == "yolo-pose":
        return toy_onestage.contract(), yolo_outputs(random, images, cells, further=51)
    if kind == "rtmdet":
        return load_contract("rtmdet-nano"), rtmdet_outputs(random, images, cells)
    return load_contract("yolox-nano"), yolox_outputs(random, images)


@SETTINGS
@given(
    kind=st.sampled_from(["yolo", "yolo-pose", "rtmdet", "yolox"]),
    images=st.integers(1, 2),
    cells=st.integers(1, 300),
    min_score=st.sampled_from([0.05, 0.3, 0.99]),
    dtype=st.sampled_from([np.float32, np.float16]),
    seed=st.integers(0, 10_000),
)
def test_tensors_and_arrays_agree(kind, images, cells, min_score, dtype, seed, tensors, on_host):
    contract, outputs = case_of(kind, np.random.default_rng(seed), images, cells)
    outputs = {role: a if role == "labels" else a.astype(dtype) for role, a in outputs.items()}
    found = tensors.decode(contract, outputs, min_score, 0.6)
    expected = on_host.decode(contract, outputs, min_score, 0.6)
    assert len(found) == len(expected) == images
    for one, other in zip(found, expected, strict=True):
        for name, ours, theirs in zip(one._fields, one, other, strict=True):
            if theirs is None:
                assert ours is None
                continue
            assert ours.dtype == theirs.dtype, name
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-3, err_msg=name)


def test_only_the_best_1024_candidates_are_kept(tensors, on_host):
    """Boxes side by side, none of them suppressed: the 1024 best stay, best first."""
    scores = np.random.default_rng(0).permutation(2000) / 2000
    found = np.zeros((1, 5, 2000), np.float32)
    found[0, 0], found[0, 2:4], found[0, 4] = 10 * np.arange(2000), 8, scores
    case = (toy_onestage.detector_contract(), {"predictions": found}, 0.25, 0.7)
    (kept,) = tensors.decode(*case)
    np.testing.assert_array_equal(kept.scores, np.sort(scores.astype(np.float32))[: -1024 - 1 : -1])
    assert len(on_host.decode(*case)[0].scores) == 1500


@pytest.mark.parametrize("min_score", [0.0, 0.25])
def test_score_0_is_no_detection(min_score, tensors):
    none = {"predictions": np.zeros((2, 5, 30), np.float32)}
    found = tensors.decode(toy_onestage.detector_contract(), none, min_score, 0.7)
    assert [one.boxes.shape for one in found] == [(0, 4), (0, 4)]
