"""Records: what is written for a packet, and that the packet comes back."""

import logging
import time
from pathlib import Path

import msgpack
import numpy as np
import orjson
import pytest
import sink_frames

from operators.records.parse_record import instances_of, packet_of
from operators.records.record import header, record, to_json
from pipeline.packet import Instances, Packet
from tools.schema_doc import HORSE  # the example of the document, which shows the golden line

GOLDEN = (
    b'{"stream":"yard","seq":17,"pts_ns":283333333,"captured_ns":1790000000000000000,"size":[1920,1080],'
    b'"instances":[{"track_id":3,"label":"horse","score":0.9412,"box":[10.12,20.0,110.46,220.79],'
    b'"skeleton":"ap10k","keypoints":[[100.13,1920.0,0.9877],null,[7.0,8.0,1.0]],'
    b'"keypoints_3d":[[0.1234,-1.5,2.0],null,[0.0,0.0,0.0]]}]}\n'
)


def yard(instances):
    return Packet("yard", 17, 283_333_333, 1_790_000_000_000_000_000, (1920, 1080), None, instances)


def test_golden_line():
    assert to_json(record(yard(HORSE))) == GOLDEN


def test_the_document_shows_the_golden_line():
    document = Path(__file__).resolve().parents[3] / "docs" / "schema.md"
    assert GOLDEN.decode() in document.read_text(encoding="utf-8")


def test_golden_header():
    head = orjson.loads(to_json(header("0123456789ab", "yard", ["ap10k"])))
    assert head["schema"] == "posestream/1"
    assert (head["run"], head["stream"]) == ("0123456789ab", "yard")
    assert head["skeletons"]["ap10k"]["keypoints"][:3] == ["left_eye", "right_eye", "nose"]
    assert head["skeletons"]["ap10k"]["limbs"][:2] == [[0, 1], [0, 2]]
    assert head["units"]["box"].startswith("px")


def test_an_unknown_skeleton_is_left_out_of_the_header_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert header("r", "yard", ["centaur"])["skeletons"] == {}
    assert "no skeleton 'centaur'" in caplog.text


@pytest.mark.parametrize(
    ("instances", "expected"),
    [
        (None, "absent"),
        (Instances.empty(), []),
        (HORSE.rows(slice(0, 0)), []),
        (Instances(boxes=HORSE.boxes), [{"box": [10.12, 20.0, 110.46, 220.79]}]),
        (Instances(boxes=HORSE.boxes, detected=np.array([False])),
         [{"detected": False, "box": [10.12, 20.0, 110.46, 220.79]}]),
        (Instances(scores=np.array([np.nan], np.float32), track_ids=np.array([-1])), [{}]),
        (Instances(labels=np.array([None, "cat"], np.object_)), [{}, {"label": "cat"}]),
        (Instances(scores=np.ones(1, np.float32), keypoints=np.full((1, 3, 2), np.nan, np.float32)),
         [{"score": 1.0}]),
        (Instances(keypoints=np.array([[[1, np.inf], [2, 3]]], np.float32)), [{"keypoints": [None, [2.0, 3.0]]}]),
    ],
)  # fmt: skip
def test_missing_values_are_absent(instances, expected):
    found = orjson.loads(to_json(record(yard(instances))))
    assert found.get("instances", "absent") == expected


@pytest.mark.parametrize("packet", sink_frames.varied())
def test_a_packet_comes_back_from_its_record(packet):
    again = packet_of(orjson.loads(to_json(record(packet))))
    assert again.replace(instances=None) == packet.replace(instances=None)
    if packet.instances is None:
        assert again.instances is None
        return
    assert len(again.instances) == len(packet.instances)
    for name, values in again.instances.validate().fields.items():
        if values.dtype == np.float32:
            wanted = packet.instances[name]
            if name == "keypoint_scores":  # a missing point has no score in the record
                wanted = np.where(np.isnan(packet.instances.keypoints).any(axis=2), np.nan, wanted)
            np.testing.assert_allclose(
                values, wanted, atol=0.0051 if name in {"boxes", "keypoints"} else 6e-5
            )
        else:
            assert values.tolist() == packet.instances[name].tolist()


def test_msgpack_takes_the_same_record():
    def pack(value):
        return value.tobytes() if isinstance(value, np.ndarray) else value.item()

    packed = msgpack.unpackb(msgpack.packb(record(yard(sink_frames.people(1))), default=pack))
    assert len(packed["instances"][0]["keypoints"]) == 33 * 3 * 4


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"stream": "yard"}, "not a record of posestream/1: KeyError 'seq'"),
        ([], "not a record"),
        ({**orjson.loads(GOLDEN), "size": 3}, "not a record"),
        ({**orjson.loads(GOLDEN), "instances": [{"box": [1, 2, 3]}]}, "boxes must be float32"),
    ],
)
def test_maps_that_are_no_records_are_refused(frame, message):
    with pytest.raises(ValueError, match=message):
        packet_of(frame)


def test_instances_of_two_skeletons_are_refused():
    with pytest.raises(ValueError, match="several skeletons, ap10k, coco17"):
        instances_of([{"skeleton": "coco17"}, {"skeleton": "ap10k"}])


def test_a_record_takes_microseconds():
    packet = yard(sink_frames.people(1))
    best_us = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(20):
            to_json(record(packet))
        best_us = min(best_us, (time.perf_counter() - start) / 20 * 1e6)
    assert best_us < 500  # about 50 on an idle machine
