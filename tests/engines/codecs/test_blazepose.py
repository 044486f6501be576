import numpy as np
import pytest

from engines.codecs.blazepose_alignment import alignment_diameters, rois_from_alignment
from engines.codecs.blazepose_detector import anchors, weighted_nms
from engines.codecs.blazepose_landmarks import refine
from engines.contracts.contract import load_contract
from engines.images.geometry import crop_to_frame, transform_points

DETECTOR = load_contract("blazepose-detector")
LANDMARKS = load_contract("blazepose-full")


def logit(p):
    return np.log(p / (1 - p))


def test_anchors_are_cell_centres():
    centres = anchors((224, 224), (8, 16, 32), (2, 2, 6))
    assert centres.shape == (2254, 2)
    assert centres[[0, 1, 2, 56]].tolist() == [[4, 4], [4, 4], [12, 4], [4, 12]]
    assert centres[28 * 28 * 2].tolist() == [8, 8]
    assert centres[-1].tolist() == [208, 208]


def detector_outputs(*found):
    """Empty raw outputs with (item, anchor, score, box values, point values) set."""
    boxes, scores = np.zeros((2, 2254, 12), np.float32), np.full((2, 2254, 1), -200, np.float32)
    for item, anchor, score, box, points in found:
        boxes[item, anchor, :4], boxes[item, anchor, 4 : 4 + len(points)] = box, points
        scores[item, anchor] = logit(score)
    return {"boxes": boxes, "scores": scores}


def test_a_detection_is_read_relative_to_its_anchor(on_host):
    outputs = detector_outputs((1, 2, 0.9, (1, 2, 30, 40), (3, 5, 3, -15)))
    none, one = on_host.decode(DETECTOR, outputs, 0.5, 0.3)
    assert none.boxes.shape == (0, 4)
    assert none.rois.shape == (0, 5)
    # The anchor is at (12, 4), so the hip is at (15, 9) and the circle's radius 20.
    np.testing.assert_allclose(one.boxes, [[-5, -11, 35, 29]], atol=1e-5)
    np.testing.assert_allclose(one.rois, [[15, 9, 50, 50, 0]], atol=1e-5)
    np.testing.assert_allclose(one.scores, [0.9], atol=1e-6)
    assert one.classes.tolist() == [0]


def test_scores_below_the_threshold_are_left_out(on_host):
    outputs = detector_outputs(
        (0, 0, 0.4, (0, 0, 8, 8), (0, 0, 0, -9)), (0, 900, 0.6, (0, 0, 8, 8), (0, 0, 0, -9))
    )
    for min_score, found in ((0.5, [1, 0]), (0.3, [2, 0])):
        detections = on_host.decode(DETECTOR, outputs, min_score, 0.3)
        assert [len(one.scores) for one in detections] == found


def test_weighted_nms_averages_what_overlaps():
    corners = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [1, 0, 11, 10], [9, 9, 19, 19]], np.float32)
    points = np.array([[[0, 0]], [[7, 7]], [[1, 0]], [[5, 5]]], np.float32)
    merged, scores = weighted_nms(corners, points, np.array([0.6, 0.9, 0.8, 0.5], np.float32), 0.3)
    np.testing.assert_allclose(scores, [0.9, 0.8, 0.5])
    np.testing.assert_allclose(merged[:, 0], [[7, 7], [0.8 / 1.4, 0], [5, 5]], rtol=1e-6)


@pytest.mark.parametrize(
    ("towards", "angle"),
    [((0, -1), 0), ((1, 0), np.pi / 2), ((0, 1), -np.pi), ((-1, 0), -np.pi / 2), ((-1, 1), -3 * np.pi / 4)],
    ids=["upright", "lying to the right", "on the head", "lying to the left", "falling"],
)
def test_a_region_is_turned_like_the_person(towards, angle):
    points = np.array([[(100, 50), (100 + 20 * towards[0], 50 + 20 * towards[1])]], np.float32)
    roi = rois_from_alignment(points, 1.25)
    diameter = 40 * np.hypot(*towards)
    np.testing.assert_allclose(alignment_diameters(points), [diameter], rtol=1e-6)
    np.testing.assert_allclose(
        roi, [[100, 50, diameter * 1.25, diameter * 1.25, angle]], rtol=1e-5, atol=1e-5
    )
    # Up in the crop is towards the second point.
    crop = transform_points(np.array([[[128, 128], [128, 128 - 256 / 2.5]]]), crop_to_frame(roi, (256, 256)))
    np.testing.assert_allclose(crop, points, atol=1e-3)


def refine_one(x, y, heatmap, kernel, min_score):
    """MediaPipe's loop, for one landmark."""
    height, width = heatmap.shape
    column, row = int(x * width), int(y * height)
    if not (0 <= column < width and 0 <= row < height):
        return x, y
    reach, total, best, sum_x, sum_y = (kernel - 1) // 2, 0.0, 0.0, 0.0, 0.0
    for r in range(max(0, row - reach), min(height, row + reach + 1)):
        for c in range(max(0, column - reach), min(width, column + reach + 1)):
            p = 1 / (1 + np.exp(-float(heatmap[r, c])))
            total, best, sum_x, sum_y = total + p, max(best, p), sum_x + p * c, sum_y + p * r
    return (sum_x / width / total, sum_y / height / total) if best >= min_score else (x, y)


@pytest.mark.parametrize("kernel", [7, 9])
def test_refinement_agrees_with_a_plain_loop(kernel):
    random = np.random.default_rng(3)
    heatmaps = random.normal(-4, 2, (3, 64, 48, 39)).astype(np.float32)
    points = random.uniform(-0.1, 1.1, (3, 35, 2)).astype(np.float32)
    points[0, :4] = [(0, 0), (0.999, 0.999), (1, 0.5), (-0.001, 0.5)]
    refined = refine(points, heatmaps, kernel, 0.5)
    expected = [
        [refine_one(*point, heatmaps[n, :, :, k], kernel, 0.5) for k, point in enumerate(row)]
        for n, row in enumerate(points)
    ]
    moved = np.any(refined != points, axis=-1)
    assert 10 < moved.sum() < moved.size - 10  # points that move and points that stay are both tested
    np.testing.assert_allclose(refined, expected, atol=1e-6)


def landmark_outputs(n):
    random = np.random.default_rng(4)
    return {
        "landmarks": random.normal(100, 50, (n, 195)).astype(np.float32),
        "presence": random.uniform(0, 1, (n, 1)).astype(np.float32),
        "heatmaps": np.full((n, 64, 64, 39), -100, np.float32),
        "world_landmarks": random.normal(0, 1, (n, 117)).astype(np.float32),
    }


@pytest.mark.parametrize("n", [0, 1, 3])
def test_landmarks_by_row(n):
    outputs = landmark_outputs(n)
    found = LANDMARKS.codec.decode(outputs, LANDMARKS.input.size)
    raw = outputs["landmarks"].reshape(n, 39, 5)
    np.testing.assert_allclose(found.points, raw[:, :33, :2], rtol=1e-5)
    np.testing.assert_allclose(found.alignment, raw[:, 33:35, :2], rtol=1e-5)
    np.testing.assert_allclose(found.visibility, 1 / (1 + np.exp(-raw[:, :33, 3].astype(float))), atol=1e-6)
    np.testing.assert_array_equal(found.world, outputs["world_landmarks"].reshape(n, 39, 3)[:, :33])
    np.testing.assert_array_equal(found.presence, outputs["presence"][:, 0])
