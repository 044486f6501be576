import numpy as np
import pytest

from operators.pose_onestage import PoseOnestage
from pipeline.errors import OptionError
from pipeline.operator import RunInfo
from pipeline.packet import Packet
from tests.support.models import toy_onestage


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path))
    toy_onestage.install(tmp_path, "toy-yolo")
    toy_onestage.install(tmp_path, "toy-yolo-xy", values=2)


def packet(*spots, seq=0, stream="a"):
    image = toy_onestage.picture(*spots)
    return Packet(stream, seq, seq, 0, toy_onestage.SIZE, image)


def opened(**options):
    operator = PoseOnestage(**{"model": "toy-yolo", "min_score": 0.3, **options})
    operator.open(RunInfo("test", "test", 0))
    return operator


TWO = [(4, 4, 200), (84, 52, 255)]


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({}, [1.0, 200 / 255]),
        ({"min_score": 0.9}, [1.0]),
        ({"max_detections": 1}, [1.0]),
        ({"every": 2}, None),
    ],
)
def test_options(options, scores):
    (result,) = opened(**options).process([packet(*TWO, seq=1)])
    if scores is None:
        assert result.instances is None
        return
    instances = result.instances.validate()
    np.testing.assert_allclose(instances.scores, scores, atol=1e-6)
    assert instances.labels.tolist() == ["person"] * len(scores)
    assert instances.skeleton == "coco17"
    assert tuple(instances.fields) == PoseOnestage.provides


def test_streams_share_a_run_and_keep_their_order():
    operator = opened()
    runs, run = [], operator.detector.engine.run
    operator.detector.engine.run = lambda inputs: runs.append(len(inputs["images"])) or run(inputs)
    packets = [packet(*TWO), packet(stream="b"), packet((36, 20, 255), seq=1)]
    results = operator.process(packets)
    assert runs == [3]
    assert [(r.stream, r.seq, len(r.instances)) for r in results] == [("a", 0, 2), ("b", 0, 0), ("a", 1, 1)]
    np.testing.assert_allclose(results[2].instances.keypoints[0, :2], [[40, 24], [41, 24]], atol=1e-4)
    assert results[1].instances.validate().keypoints.shape == (0, 17, 2)


def test_keypoint_scores_are_absent_where_the_model_gives_none():
    assert "keypoint_scores" in PoseOnestage.ports({"model": "toy-yolo"}).provides
    assert "keypoint_scores" not in PoseOnestage.ports({"model": "toy-yolo-xy"}).provides
    (result,) = opened(model="toy-yolo-xy").process([packet(*TWO)])
    assert tuple(result.instances.fields) == PoseOnestage.provides[:-1]


def test_other_models_are_refused():
    with pytest.raises(OptionError, match="blazepose-full is a pose model, expected one for pose_onestage"):
        PoseOnestage.ports({"model": "blazepose-full"})
