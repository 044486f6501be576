import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.images.boxes import iou, nms
from tests.support.devices.plain_nms import iou_by_hand, nms_by_hand


def random_boxes(rng, n, extent=200.0):
    corners = rng.uniform(0, extent, (n, 2))
    return np.concatenate([corners, corners + rng.uniform(1, extent / 2, (n, 2))], axis=1).astype(np.float32)


def test_iou():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 12), random_boxes(rng, 9)
    a[3] = a[4] = [5, 5, 5, 5]
    b[2] = [5, 5, 5, 5]
    np.testing.assert_allclose(iou(a, b), [[iou_by_hand(x, y) for y in b] for x in a], atol=1e-6)
    assert iou(a[:0], b).shape == (0, 9)
    assert iou(a, b[:0]).shape == (12, 0)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 40),
    classes=st.integers(1, 4),
    max_iou=st.floats(0.05, 0.95),
    seed=st.integers(0, 10_000),
)
def test_nms_agrees_with_the_plain_one(n, classes, max_iou, seed):
    rng = np.random.default_rng(seed)
    boxes, scores = random_boxes(rng, n), rng.permutation(n).astype(np.float32) / 100
    groups = rng.integers(0, classes, n)
    assert nms(boxes, scores, groups, max_iou).tolist() == nms_by_hand(boxes, scores, groups, max_iou)
