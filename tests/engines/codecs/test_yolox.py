import numpy as np
import pytest

from engines.contracts.contract import load_contract
from tests.support.devices.plain_nms import nms_by_hand


def yolox_outputs(rows, cells=3549):
    """Predictions that are 0 except in `rows`: (cell, x, y, log width, log height, objectness, class, class score)."""
    predictions = np.zeros((1, cells, 85), np.float32)
    for cell, x, y, width, height, objectness, label, score in rows:
        predictions[0, cell, :5] = x, y, width, height, objectness
        predictions[0, cell, 5 + label] = score
    return {"predictions": predictions}


# The grids of a 416 px input are 52, 26 and 13 cells wide and follow each other.
@pytest.mark.parametrize(
    ("cell", "corner", "stride"),
    [
        (0, (0, 0), 8),
        (51, (51, 0), 8),
        (52 * 10 + 3, (3, 10), 8),
        (52 * 52, (0, 0), 16),
        (52 * 52 + 26 * 5 + 7, (7, 5), 16),
        (52 * 52 + 26 * 26 + 13 * 12 + 12, (12, 12), 32),
    ],
)
def test_yolox_cells(cell, corner, stride, arrays):
    outputs = yolox_outputs([(cell, 0.25, 0.75, np.log(3), np.log(5), 0.9, 17, 0.8)])
    (found,) = arrays.decode(load_contract("yolox-nano"), outputs, 0.3, 0.45)
    x, y = (corner[0] + 0.25) * stride, (corner[1] + 0.75) * stride
    expected = [[x - 1.5 * stride, y - 2.5 * stride, x + 1.5 * stride, y + 2.5 * stride]]
    np.testing.assert_allclose(found.boxes, expected, rtol=1e-5)
    np.testing.assert_allclose(found.scores, [0.72], rtol=1e-6)
    assert found.classes.tolist() == [17]
    assert (found.boxes.dtype, found.scores.dtype, found.rois) == (np.float32, np.float32, None)


@pytest.mark.parametrize(
    ("rows", "expected"),  # rows: (cell, objectness, class, class score), all boxes 80 px wide and high
    [
        ([], []),
        ([(100, 0.9, 0, 0.3)], []),  # 0.27: the score is the product
        ([(100, 0.9, 0, 0.4)], [(0, 0.36)]),
        ([(100, 0.9, 0, 0.9), (101, 0.9, 0, 0.8)], [(0, 0.81)]),  # 8 px apart, one is suppressed
        ([(100, 0.9, 0, 0.9), (101, 0.9, 17, 0.8)], [(0, 0.81), (17, 0.72)]),  # of different classes
        ([(100, 0.5, 0, 0.9), (110, 0.9, 0, 0.9)], [(0, 0.81), (0, 0.45)]),  # 80 px apart, best first
    ],
)
def test_yolox_scores_and_suppression(rows, expected, arrays):
    outputs = yolox_outputs([(cell, 0, 0, np.log(10), np.log(10), *rest) for cell, *rest in rows])
    (found,) = arrays.decode(load_contract("yolox-nano"), outputs, 0.3, 0.45)
    assert [(c, pytest.approx(s)) for c, s in zip(found.classes, found.scores, strict=True)] == expected


def test_yolox_agrees_with_decoding_by_hand(arrays):
    rng = np.random.default_rng(5)
    predictions = rng.normal(0, 0.5, (2, 3549, 85)).astype(np.float32)
    predictions[..., 4:] = rng.uniform(0, 1, (2, 3549, 81)) ** 8  # few good ones
    contract = load_contract("yolox-nano")
    for found, raw in zip(
        arrays.decode(contract, {"predictions": predictions}, 0.3, 0.45), predictions, strict=True
    ):
        boxes, scores, classes, cell = [], [], [], 0
        for stride in (8, 16, 32):
            for y in range(416 // stride):
                for x in range(416 // stride):
                    px, py, pw, ph, objectness, *by_class = raw[cell].tolist()
                    cell += 1
                    if objectness * max(by_class) >= 0.3:
                        w, h = np.exp(pw) * stride, np.exp(ph) * stride
                        cx, cy = (x + px) * stride, (y + py) * stride
                        boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
                        scores.append(objectness * max(by_class))
                        classes.append(by_class.index(max(by_class)))
        kept = nms_by_hand(boxes, scores, classes, 0.45)
        assert len(kept) > 20
        assert found.classes.tolist() == [classes[row] for row in kept]
        np.testing.assert_allclose(found.boxes, [boxes[row] for row in kept], rtol=1e-4, atol=1e-3)
