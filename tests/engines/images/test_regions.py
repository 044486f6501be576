import numpy as np
import pytest

from engines.images.regions import duplicates, squares_around, upright_ious


def test_squares_around_boxes():
    boxes = np.array([[0, 0, 20, 40], [5, 5, 5, 5]], np.float32)
    np.testing.assert_allclose(squares_around(boxes, 1.25), [[10, 20, 50, 50, 0], [5, 5, 1.25, 1.25, 0]])
    assert squares_around(boxes[:0], 1.25).shape == (0, 5)


def test_overlaps_go_row_by_row():
    rois = np.array([[0, 0, 10, 10, 0], [50, 50, 10, 10, 1], [0, 0, 4, 4, 0]], np.float32)
    others = np.array([[5, 0, 10, 10, 2], [50, 50, 10, 10, 0], [9, 9, 4, 4, 0]], np.float32)
    np.testing.assert_allclose(upright_ious(rois, others), [1 / 3, 1, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("shifts", "since", "expected"),
    [
        ([], [], []),
        ([0], [5], [False]),
        ([0, 1], [5, 3], [True, False]),
        ([0, 1], [3, 3], [False, True]),
        ([0, 30], [5, 3], [False, False]),
        ([0, 30, 2], [1, 2, 3], [False, False, True]),
    ],
)
def test_duplicates_are_the_younger_ones(shifts, since, expected):
    square = np.array([[0, 0], [100, 0], [100, 100], [0, 100]], np.float32)
    keypoints = square[None] + np.array(shifts, np.float32)[:, None, None]
    boxes = np.concatenate([keypoints[:, 0], keypoints[:, 2]], axis=1)
    assert duplicates(keypoints, boxes, np.array(since, np.int64)).tolist() == expected
