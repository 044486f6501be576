import av
import numpy as np
import pytest

from engines.assets.clips import load_clip
from engines.assets.store import fetch
from engines.errors import AssetError
from operators.detect import Detect
from operators.track import Track
from pipeline.errors import OptionError
from pipeline.operator import RunInfo
from pipeline.packet import Packet

RUN = RunInfo("test", "test", 0)


class CannedEngine:
    """Finds a horse and two persons in every frame, in px of an input of 416 px."""

    def __init__(self):
        self.batches, self.closed, self.halved = [], False, 0

    def run(self, inputs):
        self.batches.append(len(inputs["images"]))
        predictions = np.zeros((self.batches[-1], 3549, 85), np.float32)
        for cell, score, label in ((60, 0.9, 17), (80, 0.6, 0), (1000, 0.4, 0)):
            predictions[:, cell, 2:5] = np.log(4), np.log(4), score
            predictions[:, cell, 5 + label] = 1
        return {"output": predictions}

    def close(self):
        self.closed = True


@pytest.fixture
def engine(monkeypatch):
    engine = CannedEngine()
    monkeypatch.setattr("operators.detect.load_engine", lambda contract, **_: engine)
    return engine


def packet(seq, stream="a", image=True):
    return Packet(
        stream, seq, seq * 40_000_000, 0, (832, 416), np.zeros((416, 832, 3), np.uint8) if image else None
    )


def opened(**options):
    operator = Detect("yolox-nano", **options)
    operator.open(RUN)
    return operator


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({}, ["horse", "person", "person"]),
        ({"classes": ["person"]}, ["person", "person"]),
        ({"classes": ["dog"]}, []),
        ({"min_score": 0.5}, ["horse", "person"]),
        ({"max_detections": 1}, ["horse"]),
        ({"max_detections": 1, "classes": ["person", "dog"]}, ["person"]),
    ],
)
def test_options(engine, options, labels):
    (result,) = opened(**options).process([packet(0)])
    instances = result.instances.validate()
    assert instances.labels.tolist() == labels
    assert instances.fields.keys() == {"boxes", "scores", "labels"}
    assert (np.diff(instances.scores) <= 0).all()


def test_frames_of_all_streams_share_one_run_and_keep_their_order(engine):
    packets = [packet(0), packet(0, "b"), packet(1), packet(1, "b")]
    results = opened().process(packets)
    assert engine.batches == [4]
    assert [(r.stream, r.seq, len(r.instances)) for r in results] == [(p.stream, p.seq, 3) for p in packets]


def test_live_every_nth_frame_is_detected_although_some_are_missing(engine):
    operator = opened(every=3)
    operator.open(RUN._replace(live=True))
    results = operator.process([packet(seq) for seq in (1, 2, 5, 8, 10, 11)] + [packet(10, "b")])
    looked = [(p.stream, p.seq) for p in results if p.instances is not None]
    assert looked == [("a", 1), ("a", 5), ("a", 8), ("a", 10), ("b", 10)]
    operator.reset("a")
    assert operator.process([packet(11)])[0].instances is not None


@pytest.mark.parametrize(("every", "due"), [(1, [0, 1, 2, 3, 4, 5]), (3, [0, 3]), (10, [0])])
def test_every_nth_frame_of_a_stream(engine, every, due):
    results = opened(every=every).process([packet(seq) for seq in range(6)])
    assert [r.seq for r in results if r.instances is not None] == due
    assert len(results) == 6
    assert engine.batches == [len(due)]


def test_no_run_where_no_frame_is_due(engine):
    (result,) = opened(every=2).process([packet(1)])
    assert result.instances is None
    assert engine.batches == []


def test_batches_that_were_halved_are_counted(engine):
    operator, found = opened(), []
    for engine.halved in (0, 1, 1, 3):
        operator.process([packet(0)])
        found.append(dict(operator.counters))
    assert found == [{}, {"halved_batches": 1}, {"halved_batches": 1}, {"halved_batches": 3}]


def test_close(engine):
    operator = opened()
    operator.close()
    operator.close()
    assert engine.closed
    Detect("yolox-nano").close()


@pytest.mark.parametrize(
    ("options", "option", "message"),
    [
        ({"model": "yolox-nani"}, "model", "no model 'yolox-nani'; did you mean 'yolox-nano'?"),
        ({"model": "blazepose-full"}, "model", "blazepose-full is a pose model, expected one for detect; did you mean 'blazepose-detector'?"),
        ({"model": "yolox-nano", "classes": ["hose"]}, "classes", "yolox-nano has no class 'hose'; did you mean 'horse'?"),
        ({"model": "rtmdet-nano", "classes": ["horse"]}, "classes", "rtmdet-nano has no class 'horse'; there are: person"),
    ],
)  # fmt: skip
def test_options_that_cannot_work_are_refused(options, option, message):
    with pytest.raises(OptionError) as caught:
        Detect.ports(options)
    assert caught.value.option == option
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("model", "rois"), [("yolox-nano", set()), ("rtmdet-nano", set()), ("blazepose-detector", {"rois"})]
)
def test_ports(model, rois):
    ports = Detect.ports({"model": model})
    assert ports.needs == {"image"}
    assert ports.provides == {"boxes", "scores", "labels"} | rois


@pytest.fixture(scope="module")
def clip():
    """Every tenth frame of a clip: one person walks in the middle, another stands at the left edge."""
    try:
        path = fetch(load_clip("single-person").asset)
    except AssetError as error:
        pytest.skip(str(error))
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][::10]
    return [
        Packet("clip", seq, seq * 166_666_667, 0, (frame.shape[1], frame.shape[0]), frame)
        for seq, frame in enumerate(frames)
    ]


@pytest.mark.models
@pytest.mark.parametrize("model", ["yolox-nano", "rtmdet-nano", "blazepose-detector"])
def test_the_walking_person_is_found_and_tracked(model, weights, clip):
    weights(model)
    operator, track = Detect(model, classes=["person"], min_score=0.4), Track()
    operator.open(RUN)
    results = track.process([*operator.process(clip[:5]), *operator.process(clip[5:])])
    operator.close()
    middle = (540, 800)
    followed = []
    for result in results:
        boxes = result.instances.validate().boxes
        around = (boxes[:, :2] < middle).all(axis=1) & (boxes[:, 2:] > middle).all(axis=1)
        followed += result.instances.track_ids[around].tolist()
    assert len(followed) == len(clip)
    assert len(set(followed)) == 1
