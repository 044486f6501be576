from __future__ import annotations

import pickle

import numpy as np
import pytest

from pipeline.packet import Instances


def two() -> Instances:
    return Instances(
        skeleton="coco17",
        boxes=np.array([[0, 0, 2, 2], [1, 1, 3, 3]], np.float32),
        scores=np.array([0.5, 0.25], np.float32),
        keypoints=np.zeros((2, 17, 2), np.float32),
    )


def test_fields_share_their_rows():
    with pytest.raises(ValueError, match=r"instances.scores has 3 rows, all fields must agree"):
        Instances(boxes=np.zeros((2, 4), np.float32), scores=np.zeros(3, np.float32))


def test_rows_and_changes_make_copies():
    instances = two()
    picked = instances.rows(np.array([False, True]))
    assert len(picked) == 1
    assert picked.scores.tolist() == [0.25]
    assert picked.skeleton == "coco17"
    more = instances.replace(track_ids=np.array([7, 9]))
    assert more.track_ids.tolist() == [7, 9]
    assert "track_ids" not in instances
    assert "boxes" not in more.without("boxes")


def test_absent_fields_are_absent():
    assert two().get("track_ids") is None
    with pytest.raises(AttributeError, match="no field 'track_ids' was provided; there are"):
        _ = two().track_ids


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"boxes": np.zeros((2, 3), np.float32)}, r"instances.boxes must be float32 \(N, 4\)"),
        ({"boxes": np.zeros((2, 4))}, "found float64"),
        (
            {"keypoints": np.zeros((2, 17, 2), np.float32), "keypoint_scores": np.zeros((2, 16), np.float32)},
            r"keypoint_scores must be float32 \(N, K\) with {'K': 17}",
        ),
    ],
)
def test_validation_says_what_must_hold(fields, message):
    with pytest.raises(ValueError, match=message):
        Instances(**fields).validate()


def test_empty_and_pickle():
    empty = Instances.empty("boxes", "scores", "keypoints").validate()
    assert not empty
    assert empty.boxes.shape == (0, 4)
    again = pickle.loads(pickle.dumps(two()))
    assert again.skeleton == "coco17"
    np.testing.assert_array_equal(again.boxes, two().boxes)
