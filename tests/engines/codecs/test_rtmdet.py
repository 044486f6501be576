import numpy as np

from engines.contracts.contract import load_contract


def test_rtmdet_drops_weak_rows_and_padding(arrays):
    boxes = np.zeros((2, 4, 5), np.float32)
    boxes[0, :3] = [[0, 0, 10, 20, 0.4], [50, 50, 90, 90, 0.9], [100, 0, 120, 20, 0.2]]
    labels = np.zeros((2, 4), np.int64)
    first, second = arrays.decode(load_contract("rtmdet-nano"), {"boxes": boxes, "labels": labels}, 0.3, 0.65)
    np.testing.assert_array_equal(first.boxes, [[50, 50, 90, 90], [0, 0, 10, 20]])
    np.testing.assert_array_equal(first.scores, np.float32([0.9, 0.4]))
    assert (second.boxes.shape, second.scores.shape, second.classes.shape) == ((0, 4), (0,), (0,))


def test_rtmdet_suppresses_within_a_class(arrays):
    rows = [[0, 0, 100, 100, 0.6], [2, 0, 102, 100, 0.9], [2, 0, 102, 100, 0.8], [50, 0, 150, 100, 0.5]]
    outputs = {"boxes": np.array([rows], np.float32), "labels": np.array([[0, 0, 1, 0]])}
    (found,) = arrays.decode(load_contract("rtmdet-nano"), outputs, 0.3, 0.65)
    np.testing.assert_array_equal(found.scores, np.float32([0.9, 0.8, 0.5]))
    assert found.classes.tolist() == [0, 1, 0]
