import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.codecs import rtmdet, yolox
from engines.codecs.detections import Detections
from engines.contracts.contract import load_contract
from engines.errors import ContractError
from engines.estimators.detector import KINDS, Detector, to_frames
from engines.images.boxes import iou, nms
from engines.images.geometry import invert_affine, letterbox_matrix, transform_points
from engines.loading.load import load_engine

DETECTORS = ["blazepose-detector", "rtmdet-nano", "yolox-nano"]


def iou_by_hand(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def nms_by_hand(boxes, scores, classes, max_iou):
    """Greedy suppression as one would write it down."""
    kept = []
    for row in sorted(range(len(boxes)), key=lambda row: -scores[row]):
        rivals = [other for other in kept if classes[other] == classes[row]]
        if all(iou_by_hand(boxes[row], boxes[other]) <= max_iou for other in rivals):
            kept.append(row)
    return kept


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


def yolox_outputs(rows, cells=3549):
    """Predictions of nothing but `rows`: (cell, x, y, log width, log height, objectness, class, class score)."""
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
    (found,) = arrays.decode(yolox, outputs, load_contract("yolox-nano"), 0.3, 0.45)
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
        ([(100, 0.9, 0, 0.3)], []),  # 0.27: the product counts
        ([(100, 0.9, 0, 0.4)], [(0, 0.36)]),
        ([(100, 0.9, 0, 0.9), (101, 0.9, 0, 0.8)], [(0, 0.81)]),  # 8 px apart, one is suppressed
        ([(100, 0.9, 0, 0.9), (101, 0.9, 17, 0.8)], [(0, 0.81), (17, 0.72)]),  # of different classes
        ([(100, 0.5, 0, 0.9), (110, 0.9, 0, 0.9)], [(0, 0.81), (0, 0.45)]),  # 80 px apart, best first
    ],
)
def test_yolox_scores_and_suppression(rows, expected, arrays):
    outputs = yolox_outputs([(cell, 0, 0, np.log(10), np.log(10), *rest) for cell, *rest in rows])
    (found,) = arrays.decode(yolox, outputs, load_contract("yolox-nano"), 0.3, 0.45)
    assert [(c, pytest.approx(s)) for c, s in zip(found.classes, found.scores, strict=True)] == expected


def test_yolox_agrees_with_decoding_by_hand(arrays):
    rng = np.random.default_rng(5)
    predictions = rng.normal(0, 0.5, (2, 3549, 85)).astype(np.float32)
    predictions[..., 4:] = rng.uniform(0, 1, (2, 3549, 81)) ** 8  # few good ones
    contract = load_contract("yolox-nano")
    for found, raw in zip(
        arrays.decode(yolox, {"predictions": predictions}, contract, 0.3, 0.45), predictions, strict=True
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


def test_rtmdet_drops_weak_and_filling_rows(arrays):
    boxes = np.zeros((2, 4, 5), np.float32)
    boxes[0, :3] = [[0, 0, 10, 20, 0.4], [50, 50, 90, 90, 0.9], [100, 0, 120, 20, 0.2]]
    labels = np.zeros((2, 4), np.int64)
    first, second = arrays.decode(
        rtmdet, {"boxes": boxes, "labels": labels}, load_contract("rtmdet-nano"), 0.3, 0.65
    )
    np.testing.assert_array_equal(first.boxes, [[50, 50, 90, 90], [0, 0, 10, 20]])
    np.testing.assert_array_equal(first.scores, np.float32([0.9, 0.4]))
    assert (second.boxes.shape, second.scores.shape, second.classes.shape) == ((0, 4), (0,), (0,))


def test_rtmdet_suppresses_within_a_class(arrays):
    rows = [[0, 0, 100, 100, 0.6], [2, 0, 102, 100, 0.9], [2, 0, 102, 100, 0.8], [50, 0, 150, 100, 0.5]]
    outputs = {"boxes": np.array([rows], np.float32), "labels": np.array([[0, 0, 1, 0]])}
    (found,) = arrays.decode(rtmdet, outputs, load_contract("rtmdet-nano"), 0.3, 0.65)
    np.testing.assert_array_equal(found.scores, np.float32([0.9, 0.8, 0.5]))
    assert found.classes.tolist() == [0, 1, 0]


@settings(max_examples=200, deadline=None)
@given(
    model=st.sampled_from(DETECTORS),
    size=st.tuples(st.integers(16, 4096), st.integers(16, 4096)),
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_boxes_come_back_to_a_tenth_of_a_pixel(model, size, corners):
    matrix = letterbox_matrix(size, load_contract(model).input)
    frame = np.array([[corners[:2], corners[2:]]]) * size  # (1, 2, 2)
    frame = np.sort(frame, axis=1).astype(np.float32)
    rois = np.array([[*frame[0, 0], 100, 50, 0.5]], np.float32)
    rois[:, :2] = transform_points(rois[:, :2], matrix)
    rois[:, 2:4] *= matrix[0, 0]
    found = Detections(
        transform_points(frame, matrix).reshape(1, 4).astype(np.float32), np.ones(1), np.zeros(1, int), rois
    )
    (back,) = to_frames([found], invert_affine(matrix)[None], [size], clip=True)
    np.testing.assert_allclose(back.boxes, frame.reshape(1, 4), atol=0.1)
    np.testing.assert_allclose(back.rois, [[*frame[0, 0], 100, 50, 0.5]], atol=0.1)


class CannedEngine:
    """Keeps what it is given and answers with what it was made with."""

    def __init__(self, **outputs):
        self.answer, self.batches = outputs, []

    def run(self, inputs):
        self.batches.append({name: np.asarray(items) for name, items in inputs.items()})
        return self.answer

    def close(self):
        self.answer = {}


def ramp(width, height):
    """An image whose red is x and whose green is y of each pixel's centre, in 255ths of the frame."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width * 255, (np.arange(height) + 0.5) / height * 255)
    return np.stack([x, y, np.zeros_like(x)], axis=2).round().astype(np.uint8)


@pytest.mark.parametrize("size", [(416, 416), (1920, 1080), (288, 162), (640, 1137)])
def test_what_the_model_sees_lies_where_its_boxes_are_read(size):
    contract = load_contract("yolox-nano")
    engine = CannedEngine(output=np.zeros((1, 3549, 85), np.float32))
    Detector(contract, engine)([ramp(*size)])
    seen = engine.batches[0]["images"][0]  # (3, 416, 416), BGR
    back = invert_affine(letterbox_matrix(size, contract.input))
    rows, columns = round(416 * min(1, size[1] / size[0])), round(416 * min(1, size[0] / size[1]))
    x, y = np.meshgrid(np.arange(5, columns - 5) + 0.5, np.arange(5, rows - 5) + 0.5)
    where = transform_points(np.stack([x, y], axis=-1), back)
    for axis, channel in ((0, 2), (1, 1)):
        shown = seen[channel, 5 : rows - 5, 5 : columns - 5] / 255 * size[axis]
        offset_px = (shown - where[..., axis]).mean()  # the mean, since a step of the ramp may be several px
        assert abs(offset_px) < 0.1
    if rows < 416:
        np.testing.assert_array_equal(seen[:, rows + 1 :], 114)


def test_one_engine_run_for_frames_of_several_sizes():
    rows = np.array([[10, 10, 110, 160, 0.8], [-20, -20, 500, 500, 0.7]], np.float32)
    dets = np.stack([rows, rows, np.zeros_like(rows)])
    engine = CannedEngine(dets=dets, labels=np.zeros((3, 2), np.int64))
    detector = Detector(load_contract("rtmdet-nano"), engine)
    images = [np.zeros((h, w, 3), np.uint8) for w, h in ((640, 480), (160, 320), (320, 320))]
    wide, high, none = detector(images)
    assert [one["input"].shape for one in engine.batches] == [(3, 3, 320, 320)]
    np.testing.assert_allclose(wide.boxes, [[20, 20, 220, 320], [0, 0, 640, 480]], atol=1e-3)
    np.testing.assert_allclose(high.boxes, [[10, 10, 110, 160], [0, 0, 160, 320]], atol=1e-3)
    assert none.boxes.shape == (0, 4)
    assert [len(one.boxes) for one in detector(images, min_score=0.75)] == [1, 1, 0]
    assert detector([]) == []


def test_a_pose_model_is_no_detector():
    with pytest.raises(ContractError, match="blazepose-full: codec 'blazepose-landmarks' does not detect"):
        Detector(load_contract("blazepose-full"), CannedEngine())


@pytest.mark.parametrize("model", DETECTORS)
def test_contracts_of_detectors(model):
    contract = load_contract(model)
    assert contract.task == "detect"
    assert contract.codec.kind in KINDS
    assert len(set(contract.labels)) == len(contract.labels)
    if contract.codec.kind == "yolox":
        cells = sum((416 // stride) ** 2 for stride in contract.codec.strides)
        assert contract.outputs["predictions"].shape == (1, cells, 5 + len(contract.labels))


@pytest.fixture(scope="module", params=DETECTORS)
def detector(request, weights):
    contract = load_contract(request.param)
    detector = Detector(contract, load_engine(contract, path=weights(request.param)))
    yield detector
    detector.close()


@pytest.mark.models
def test_real_weights_see_nothing_on_an_empty_frame(detector):
    frame = np.full((480, 640, 3), 127, np.uint8)
    found = detector([frame, frame[:200]])
    assert [len(one.boxes) for one in found] == [0, 0]


@pytest.mark.models
def test_real_weights_give_the_same_in_a_batch_as_alone(detector):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (h, w, 3), np.uint8) for w, h in ((640, 480), (300, 500))]
    together = detector(frames, min_score=0.01)  # noise has weak detections, enough to compare
    for one, frame in zip(together, frames, strict=True):
        (alone,) = detector([frame], min_score=0.01)
        np.testing.assert_allclose(one.boxes, alone.boxes, atol=0.1)
        np.testing.assert_allclose(one.scores, alone.scores, atol=1e-3)
