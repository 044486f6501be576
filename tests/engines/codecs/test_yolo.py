import numpy as np
import pytest

from engines.backends.onnxruntime import OnnxEngine
from engines.estimators.detector import Detector
from tests.support.models import toy_onestage


def predictions(*rows, classes=3, values=0, cells=30):
    """(1, 4 + C + values, cells): a row for a cell is cx, cy, w, h, {class: score} and further values."""
    found = np.zeros((1, 4 + classes + values, cells), np.float32)
    for cell, (*box, scores, further) in enumerate(rows, start=5):
        found[0, :4, cell] = box
        found[0, 4 + classes :, cell] = further
        for label, score in scores.items():
            found[0, 4 + label, cell] = score
    return {"predictions": found}


@pytest.mark.parametrize(
    ("rows", "boxes", "classes"),
    [
        ([], [], []),
        ([(50, 40, 20, 10, {1: 0.9}, ())], [[40, 35, 60, 45]], [1]),
        ([(50, 40, 20, 10, {1: 0.2}, ())], [], []),
        # The best class counts, not their sum.
        ([(50, 40, 20, 10, {0: 0.2, 2: 0.2}, ())], [], []),
        ([(50, 40, 20, 10, {0: 0.3, 2: 0.6}, ())], [[40, 35, 60, 45]], [2]),
        # Best first; a box that overlaps a better one of its class is removed, one of another class stays.
        (
            [(50, 40, 20, 10, {1: 0.5}, ()), (51, 40, 20, 10, {1: 0.9}, ()), (50, 40, 20, 10, {2: 0.7}, ())],
            [[41, 35, 61, 45], [40, 35, 60, 45]],
            [1, 2],
        ),
    ],
)
def test_decodes_boxes(rows, boxes, classes, arrays):
    (found,) = arrays.decode(toy_onestage.detector_contract(), predictions(*rows), 0.25, 0.7)
    np.testing.assert_allclose(found.boxes, np.array(boxes).reshape(-1, 4), atol=1e-5)
    assert found.classes.tolist() == classes
    assert (found.boxes.dtype, found.scores.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize(("labels", "values"), [(("person",), 3), (("person", "dog"), 2)])
def test_keypoints_go_with_their_boxes(labels, values, arrays):
    contract = toy_onestage.contract(labels=labels, values=values)
    points = [np.arange(17 * values) + 100 * n for n in range(3)]
    rows = [
        (50, 40, 20, 10, {0: 0.5}, points[0]),
        (51, 40, 20, 10, {0: 0.9}, points[1]),  # suppresses the first
        (10, 40, 20, 10, {len(labels) - 1: 0.7}, points[2]),
    ]
    outputs = predictions(*rows, classes=len(labels), values=17 * values)
    (found,) = arrays.decode(contract, outputs, 0.25, 0.7)
    expected = np.stack([points[1], points[2]]).reshape(2, 17, values)
    np.testing.assert_array_equal(found.keypoints, expected[..., :2])
    assert found.classes.tolist() == [0, len(labels) - 1]
    if values == 3:
        np.testing.assert_array_equal(found.keypoint_scores, expected[..., 2])
    else:
        assert found.keypoint_scores is None
    (none,) = arrays.decode(contract, outputs, 0.95, 0.7)
    assert none.keypoints.shape == (0, 17, 2)


def test_a_detector_maps_keypoints_back_to_each_frame(tmp_path):
    """Frames of several sizes in one run; the letterboxed image lies in the centre."""
    (tmp_path / "toy.onnx").write_bytes(toy_onestage.graph().SerializeToString())
    detector = Detector(toy_onestage.contract(), OnnxEngine(tmp_path / "toy.onnx"))
    same = toy_onestage.picture((36, 20, 255))
    wide = toy_onestage.picture((80, 0, 255), size=(192, 64))  # 0.5, and 16 px above it
    first, second = detector([same, wide], min_score=0.9)
    np.testing.assert_allclose(first.boxes, [[24, 8, 56, 40]], atol=1e-4)
    np.testing.assert_allclose(first.keypoints[0, :3], [[40, 24], [41, 24], [42, 24]], atol=1e-4)
    np.testing.assert_allclose(second.boxes, [[48, 0, 112, 48]], atol=1e-4)  # cut off at the frame's edge
    np.testing.assert_allclose(second.keypoints[0, :2], [[80, 16], [82, 16]], atol=1e-4)
    np.testing.assert_allclose(second.keypoint_scores[0, :2], [0.5, 0.51], atol=1e-6)
