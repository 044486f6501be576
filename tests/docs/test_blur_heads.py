"""The example operator of docs/gpu-operators.md: which heads it finds, what it changes, and its kernel."""

from __future__ import annotations

import re

import numpy as np
import pytest
import yaml

from engines.device.cuda_bindings import call
from engines.device.plane_layout import plane_shapes
from engines.errors import EngineError
from engines.kernels import nvrtc
from operators import REGISTRY
from pipeline.graph import check_graph
from pipeline.packet import Instances, Packet
from tests.support.example_operator import EXAMPLE, blur_heads, emulated_kernel

NOISE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
WIDE, HIGH = 160, 120


def person(x, y, size=1.0, *, seen=(0, 1, 2, 3, 4), score=0.9):
    """Box, keypoints (17, 2) and scores of a person who looks at the camera, with the nose at x, y."""
    head = np.array([(0, 0), (3, -3), (-3, -3), (8, -1), (-8, -1)]) * size + (x, y)
    keypoints = np.full((17, 2), np.nan, np.float32)
    keypoints[list(seen)] = head[list(seen)]
    box = np.array([x - 20 * size, y - 14 * size, x + 20 * size, y + 90 * size], np.float32)
    return box, keypoints, np.full(17, score, np.float32)


def people(*persons, skeleton="coco17"):
    boxes, keypoints, scores = (np.array(values, np.float32) for values in zip(*persons, strict=True))
    return Instances(skeleton=skeleton, boxes=boxes, keypoints=keypoints, keypoint_scores=scores)


def packet(instances, picture=NOISE):
    return Packet("a", 0, 0, 0, (WIDE, HIGH), picture, instances)


def blurred(instances, **options):
    picture = NOISE.copy()
    (found,) = blur_heads.BlurHeads(**options).process([packet(instances, picture)])
    np.testing.assert_array_equal(picture, NOISE)  # other stages may hold it
    return found.image


def distance(x, y):
    """(H, W): of each pixel from a point."""
    down, right = np.ogrid[:HIGH, :WIDE]
    return np.hypot(right - x, down - y)


# The persons, and a circle (x, y, radius) around each head that must change.
TABLE = {
    "one person": ([person(80, 50)], [(80, 49, 12)]),
    "several persons": ([person(30, 40), person(120, 70)], [(30, 39, 12), (120, 69, 12)]),
    "heads that overlap": ([person(60, 50), person(75, 55)], [(60, 49, 12), (75, 54, 12)]),
    "at the upper left border": ([person(2, 1)], [(2, 0, 12)]),
    "at the lower right border": ([person(159, 118)], [(159, 117, 12)]),
    "a profile": ([person(80, 50, seen=(0, 1, 3))], [(84, 49, 9)]),
    "scores too low: the top of the box": ([person(80, 50, score=0.1)], [(80, 48, 10)]),
    "only a nose: the top of the box": ([person(80, 50, seen=[0])], [(80, 48, 10)]),
    "no keypoint: the top of the box": ([person(80, 50, seen=[])], [(80, 48, 10)]),
}


@pytest.mark.parametrize(("persons", "circles"), TABLE.values(), ids=TABLE)
def test_heads_change_and_the_rest_is_equal_to_the_last_bit(persons, circles):
    instances = people(*persons)
    image = blurred(instances)
    changed = (image != NOISE).any(axis=2)
    for x, y, radius in circles:  # a mean is a pixel's own value by chance only
        assert changed[distance(x, y) <= radius].mean() > 0.95
    heads = blur_heads.heads_of(instances, 0.3)
    assert len(heads) == len(persons)
    outside = np.all([distance(head["x"], head["y"]) > head["radius"] for head in heads], axis=0)
    assert outside.any()
    np.testing.assert_array_equal(image[outside], NOISE[outside])


def test_a_face_is_left_with_few_colours():
    image = blurred(people(person(80, 60, 2)))
    square = image[60 - 10 : 60 + 10, 80 - 10 : 80 + 10].reshape(-1, 3)
    assert len(np.unique(square, axis=0)) <= 25
    assert abs(square.mean() - NOISE[50:70, 70:90].mean()) < 20


@pytest.mark.parametrize(
    "instances",
    [
        None,
        Instances.empty("boxes", "scores", "keypoints"),
        people(person(-500, -500)),
        people(person(9e8, 9e8)),
    ],
    ids=["not looked for", "none", "outside", "far outside"],
)
def test_frames_without_a_head_are_unchanged(instances):
    np.testing.assert_array_equal(blurred(instances), NOISE)


def test_a_person_without_box_and_keypoints_has_no_head():
    box, keypoints, scores = person(80, 50, seen=[])
    np.testing.assert_array_equal(blurred(people((box * np.nan, keypoints, scores))), NOISE)


def test_keypoints_are_found_by_name():
    box, keypoints, scores = person(80, 50)
    moved = np.full((33, 2), np.nan, np.float32)
    moved[[0, 2, 5, 7, 8]] = keypoints[:5]
    (blazepose,) = blur_heads.heads_of(people((box, moved, np.ones(33)), skeleton="blazepose33"), 0.3)
    (coco,) = blur_heads.heads_of(people((box, keypoints, scores)), 0.3)
    assert blazepose == coco


def test_the_graph_of_the_page_is_valid(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    page = (EXAMPLE.parent / "gpu-operators.md").read_text(encoding="utf-8")
    (graph,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    check_graph(yaml.safe_load(graph), REGISTRY)


def noisy_planes(layout, size):
    """The planes of a frame of noise with padded rows, as a decoder's."""
    rng = np.random.default_rng(1)
    return [
        rng.integers(0, 256, (shape[0], 256, *shape[2:]), np.uint8)[:, : shape[1]]
        for shape in plane_shapes(layout, size)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("layout", ["nv12", "i420", "rgb"])
def test_the_kernel_gives_the_bits_of_its_twin(layout, backwards):
    persons = [
        person(30, 40),
        person(44, 45),
        person(2, 1),
        person(158, 100),
        person(90, 60, 2.5),
        person(-300, 5),
    ]
    heads = blur_heads.heads_of(people(*persons), 0.3)
    planes = noisy_planes(layout, (159, 119))
    copies = [plane.copy() for plane in planes]
    work = blur_heads.parameters(
        *([p.__array_interface__ for p in given] for given in (planes, copies)), heads
    )
    kernel = emulated_kernel()
    kernel.launch((64, len(heads), 3), (32, 8, 1), work, 0, backwards=backwards)
    for found, wanted, before in zip(copies, blur_heads.blur_on_host(planes, heads), planes, strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert (found != before).any()


@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_90", "sm_120"])
def test_the_kernel_compiles(architecture, tmp_path, monkeypatch):
    pytest.importorskip("cuda.bindings")
    try:
        call("nvrtc", "nvrtcVersion")
    except EngineError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path))
    monkeypatch.setattr(nvrtc, "SOURCES", EXAMPLE)
    cubin = nvrtc.load_cubin("blur_heads", architecture, blur_heads.PARAMETERS.itemsize)
    assert cubin.startswith(b"\x7fELF")
