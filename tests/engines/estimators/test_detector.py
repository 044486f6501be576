import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.codecs.base import DetectorCodec
from engines.codecs.detections import Detections
from engines.contracts.contract import load_contract
from engines.errors import ContractError
from engines.estimators.detector import Detector, to_frames
from engines.images.geometry import invert_affine, letterbox_matrix, transform_points
from engines.loading.load import load_engine

DETECTORS = ["blazepose-detector", "rtmdet-nano", "yolox-nano"]


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
    """Keeps its inputs and returns the given outputs."""

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
    assert isinstance(contract.codec, DetectorCodec)
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
