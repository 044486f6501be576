"""Top-down pose: MMPose's geometry, and the path from frame to keypoints with tiny real models."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from engines.contracts.contract import load_contract
from engines.errors import ContractError
from engines.estimators.topdown import RUN_MAX, TopDown
from engines.images.geometry import crop_to_frame, invert_affine, transform_points
from operators.decoding.frame_images import picture_of
from tests.support.models.toy_models import contract, spots, top_down

ORIGINAL = json.loads((Path(__file__).parents[1] / "topdown_original.json").read_text())
FRAME = np.array([(0, 0), (1920, 0), (1920, 1080), (0, 1080)], float)
KINDS = [("simcc", False), ("heatmap", False), ("heatmap", True)]
FIRST = np.zeros(1, int)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    return {
        (kind, udp): top_down(folder, contract(kind, udp=udp, name=f"{kind}{udp:d}")) for kind, udp in KINDS
    }


@pytest.fixture(params=KINDS, ids=["simcc", "heatmap", "udp"])
def toy(request, toys):
    return toys[request.param]


def model_like(size, udp):
    """A top-down model of that input size, without an engine: only its geometry is used."""
    base = load_contract("hrnet-w32-coco")
    codec = base.codec.model_copy(update={"udp": udp})
    model_input = base.input.model_copy(update={"size": tuple(size)})
    return TopDown(base.model_copy(update={"codec": codec, "input": model_input}), engine=None)


@pytest.mark.parametrize("case", ORIGINAL["warp"], ids=lambda c: f"{c['size']}-{c['udp']}-{c['box'][0]}")
def test_crops_match_mmpose(case):
    model = model_like(case["size"], case["udp"])
    to_frame = crop_to_frame(model.regions(np.array([case["box"]], np.float32)), model.far_corner)[0]
    ours, theirs = invert_affine(to_frame), np.array(case["matrix"])
    shift = np.abs(transform_points(FRAME, ours) - transform_points(FRAME, theirs))
    assert shift.max() < 0.002  # px of the crop, anywhere in the frame; MMPose computes in float32


@pytest.mark.parametrize(
    ("case", "frame"),
    list(zip(ORIGINAL["heatmap"], ORIGINAL["frames"], strict=False)),
    ids=lambda case: case.get("refine"),
)
def test_keypoints_in_the_frame_match_mmpose(case, frame):
    model = model_like(case["size"], case["udp"])
    back = crop_to_frame(model.regions(np.array([frame["box"]], np.float32)), model.far_corner)[0]
    pixels = np.array(case["points"]) * [(side - case["udp"]) / side for side in case["size"]]
    np.testing.assert_allclose(transform_points(pixels, back), frame["points"], atol=1e-3)


def test_a_spot_is_found_where_it_is(toy):
    """The region is 96x128 px, so a px of the crop is 2 px of the frame; the spots are on px of both."""
    box = np.array([[100 - 38.4, 80 - 51.2, 100 + 38.4, 80 + 51.2]], np.float32)
    where = [(96, 70), (90, 96), (108, 60)]
    found = toy([spots(*where)], FIRST, box)
    error_px = 0.05 if toy.contract.codec.kind == "simcc" else 0.3
    np.testing.assert_allclose(found.points[0], [where[k % 3] for k in range(17)], atol=error_px)
    np.testing.assert_allclose(found.scores, 0.96, atol=0.04)


def test_many_boxes_are_the_same_as_one_by_one(toy):
    """More boxes than fit in one run, in images of several sizes, some partly or wholly outside."""
    random = np.random.default_rng(0)
    images = [spots((60, 60), (30, 20), (80, 40)), spots((100, 90), (150, 30), (40, 140), size=(320, 200))]
    corner = random.uniform(-60, 200, (RUN_MAX + 5, 2))
    boxes = np.concatenate([corner, corner + random.uniform(0, 120, corner.shape)], axis=1).astype(np.float32)
    index = random.integers(0, 2, len(boxes))
    together = toy(images, index, boxes)
    for n in range(0, len(boxes), 3):
        alone = toy([images[index[n]]], FIRST, boxes[n : n + 1])
        # If two bins are equally high, ONNX Runtime may choose either.
        np.testing.assert_allclose(together.points[n], alone.points[0], atol=2)
        np.testing.assert_allclose(together.scores[n], alone.scores[0], atol=1e-5)


def test_a_box_that_reaches_out_of_the_frame(toy):
    """The keypoints inside the frame are right; a spot outside of it gives no keypoint."""
    found = toy([spots((30, 40))], FIRST, np.array([[-60, -40, 60, 80]], np.float32))
    np.testing.assert_allclose(found.points[0, 0], (30, 40), atol=1.5)
    assert np.isnan(found.points[0, 1]).all()
    assert found.scores[0, 1] == 0


def test_no_boxes(toy):
    found = toy([spots((4, 10))], np.zeros(0, int), np.zeros((0, 4), np.float32))
    assert [(a.shape, a.dtype) for a in found] == [((0, 17, 2), np.float32), ((0, 17), np.float32)]


def test_yuv_planes_and_rgb_agree(toy):
    grey = np.repeat(spots((112, 70))[..., :1], 3, axis=2)
    frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format="yuv420p")
    planes = picture_of(frame)
    boxes = np.array([[60, 30, 140, 130]], np.float32)
    from_planes, from_rgb = toy([planes], FIRST, boxes), toy([planes.rgb], FIRST, boxes)
    np.testing.assert_allclose(from_planes.points, from_rgb.points, atol=0.2)
    np.testing.assert_allclose(from_planes.scores, from_rgb.scores, atol=0.02)


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1), (25, 1), (-40, 1.3)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_regions_may_be_turned_and_mirrored(toy, degrees, scale, mirrored):
    """Keypoints come back in px of the frame. Left and right are swapped for mirrored crops, although this toy
    model sees no sides.
    """
    where = [(112, 70), (90, 96), (120, 60)]
    width = -96 * scale if mirrored else 96 * scale
    region = np.array([[100, 80, width, 128 * scale, np.deg2rad(degrees)]])
    found = toy.in_regions([spots(*where)], FIRST, region)
    seen = toy.skeleton.mirror if mirrored else np.arange(17)
    np.testing.assert_allclose(found.points[0], [where[k % 3] for k in seen], atol=1.5 * scale)


def test_with_a_flip_test_a_mirrored_frame_has_the_mirrored_pose(tmp_path):
    model = top_down(tmp_path, contract("heatmap", udp=True), flip_test=True)
    picture = spots((112, 70), (90, 96), (122, 60))
    found = model([picture], FIRST, np.array([[60, 30, 140, 130]], np.float32))
    mirrored = model([picture[:, ::-1]], FIRST, np.array([[199 - 140, 30, 199 - 60, 130]], np.float32))
    expected = mirrored.points[:, model.skeleton.mirror]
    expected[..., 0] = 199 - expected[..., 0]
    np.testing.assert_allclose(found.points, expected, atol=0.3)  # OpenCV warps to 1/32 px
    np.testing.assert_allclose(found.scores, mirrored.scores[:, model.skeleton.mirror], atol=0.01)


def test_other_models_are_refused():
    with pytest.raises(ContractError, match=r"'blazepose-landmarks' does not read .* one of \['heatmap'"):
        TopDown(load_contract("blazepose-full"), engine=None)
