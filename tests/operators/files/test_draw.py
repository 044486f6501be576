"""Drawing: colours, positions, and what is left out."""

import numpy as np
import pytest
import sink_frames

from engines.contracts.skeletons import load_skeleton
from operators.files.draw import SIDES, UNTRACKED, draw, line_width, track_colour
from pipeline.packet import Instances

COCO = load_skeleton("coco17")
GREY = np.full((1080, 1440, 3), 90, np.uint8)


def pose(**at):
    """One person with only the named keypoints."""
    points = np.full((1, 17, 2), np.nan, np.float32)
    for name, place in at.items():
        points[0, COCO.keypoints.index(name)] = place
    return Instances(skeleton="coco17", keypoints=points, keypoint_scores=np.full((1, 17), 0.6, np.float32))


@pytest.mark.parametrize(
    ("instances", "place", "colour"),
    [
        (pose(left_knee=(100, 50)), (100, 50), SIDES["left"]),
        (pose(right_knee=(100, 50)), (100, 50), SIDES["right"]),
        (pose(nose=(100, 50)), (100, 50), SIDES["centre"]),
        (pose(left_knee=(100, 50), left_ankle=(100, 90)), (100, 70), SIDES["left"]),
        (pose(right_knee=(100, 50), right_ankle=(100, 90)), (100, 70), SIDES["right"]),
        (pose(left_hip=(100, 50), right_hip=(140, 50)), (120, 50), SIDES["centre"]),
        (Instances(boxes=np.array([[50, 60, 200, 300]], np.float32)), (50, 200), UNTRACKED),
        (Instances(boxes=np.array([[50, 60, 200, 300]], np.float32), track_ids=np.array([7])),
         (50, 200), track_colour(7)),
    ],
)  # fmt: skip
def test_points_limbs_and_boxes_have_their_colours(instances, place, colour):
    drawn = draw(GREY, instances, COCO)
    assert drawn[place[1], place[0]].tolist() == list(colour)
    assert (GREY == 90).all()


@pytest.mark.parametrize(
    "instances",
    [
        None,
        Instances.empty(),
        pose(),
        pose(left_knee=(100, np.inf)),
        pose(left_knee=(1e9, -1e9), left_hip=(2e9, -1e9)),
        pose(nose=(100, 50)).replace(keypoint_scores=np.full((1, 17), 0.4, np.float32)),
        Instances(boxes=np.full((1, 4), np.nan, np.float32)),
        Instances(boxes=np.array([[-1e9, -1e9, 1e9, 1e9]], np.float32)),
        Instances(keypoints=np.empty((0, 0, 2), np.float32)),
    ],
)
def test_missing_uncertain_and_outside_points_are_not_drawn(instances):
    assert (draw(GREY, instances, COCO) == GREY).all()


@pytest.mark.parametrize("skeleton", [None, COCO], ids=["none", "of another size"])
def test_without_a_matching_skeleton_only_points_are_drawn(skeleton):
    drawn = draw(GREY, sink_frames.people(1), skeleton, min_score=0)
    assert (drawn == SIDES["centre"]).all(axis=2).any()
    assert not (drawn == SIDES["left"]).all(axis=2).any()


@pytest.mark.parametrize(
    ("size", "width"), [((1920, 1080), 3), ((480, 640), 1), ((64, 48), 1), ((2160, 3840), 6)]
)
def test_lines_grow_with_the_picture(size, width):
    assert line_width(np.zeros((*size, 3), np.uint8)) == width


@pytest.mark.parametrize("box", [(5, 5, 60, 90), (1400, 900, 1900, 1600), (-50, -50, 30, 30)])
def test_labels_stay_inside_the_picture(box):
    instances = Instances(boxes=np.array([box], np.float32), labels=np.array(["giraffe"], np.object_))
    without = draw(GREY, instances.without("labels"), None)
    changed = (draw(GREY, instances, None) != without).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert np.ptp(rows) > 8
    assert np.ptp(columns) > 40


def test_each_track_has_its_own_colour():
    assert len({track_colour(i) for i in range(1, 100)}) == 99
    assert track_colour(3) == track_colour(3)
