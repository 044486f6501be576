"""COCO results: the entries of a frame, and a file that is always valid JSON."""

import json

import numpy as np
import pytest
import sink_frames

from operators.coco_sink import CocoSink, entries
from pipeline.packet import Instances

HORSES = Instances(
    skeleton="ap10k",
    boxes=np.array([[10, 20, 110.5, 220]], np.float32),
    labels=np.array(["horse"], np.object_),
    keypoints=np.full((1, 17, 2), 5, np.float32),
    keypoint_scores=np.full((1, 17), 0.25, np.float32),
)
BOX = Instances(boxes=np.array([[1, 2, 4, 8]], np.float32), scores=np.array([0.5], np.float32))


def entries_of(instances):
    return json.loads(
        json.dumps(entries(sink_frames.frame(7, instances)), default=lambda value: value.tolist())
    )


@pytest.mark.parametrize(
    ("instances", "expected"),
    [
        (None, []),
        (Instances.empty(), []),
        (BOX, [{"image_id": 7, "category_id": 0, "bbox": [1, 2, 3, 6], "score": 0.5}]),
        (BOX.replace(labels=np.array(["person"], np.object_), track_ids=np.array([9])),
         [{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 6], "score": 0.5, "track_id": 9, "label": "person"}]),
        (BOX.replace(labels=np.array(["hyena"], np.object_), track_ids=np.array([-1])),
         [{"image_id": 7, "category_id": 0, "bbox": [1, 2, 3, 6], "score": 0.5, "label": "hyena"}]),
        (HORSES, [{"image_id": 7, "category_id": 19, "bbox": [10, 20, 100.5, 200], "keypoints": [5, 5, 0.25] * 17,
                   "score": 0.25, "label": "horse"}]),
    ],
)  # fmt: skip
def test_the_entries_of_a_frame(instances, expected):
    assert entries_of(instances) == expected


def test_persons_have_coco17_keypoints_and_zeros_for_missing_ones():
    instances = sink_frames.people(1).without("labels")
    points = instances.keypoints.copy()
    points[0, 11] = np.nan  # the left shoulder
    entry = entries_of(instances.replace(keypoints=points))[0]
    assert entry["category_id"] == 1
    assert len(entry["keypoints"]) == 51
    assert entry["keypoints"][15:18] == [0, 0, 0]
    assert entry["keypoints"][18:20] == pytest.approx(points[0, 12].tolist(), abs=0.0051)


def test_the_file_is_valid_after_every_frame(tmp_path):
    sink = CocoSink(str(tmp_path))
    sink.open(sink_frames.RUN)
    total = 0
    for packet in sink_frames.varied():
        sink.process([packet])
        total += len(packet.instances) if packet.instances is not None else 0
        assert len(json.loads((tmp_path / "yard.coco.json").read_text())) == total
    sink.close()
