import numpy as np
import pytest

from operators.track import Track
from pipeline.packet import Instances, Packet


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def packet(pts_s, boxes=None, scores=None, labels=None, stream="a", size=(1920, 1080), **fields):
    """A packet; without boxes, one on which detection did not run."""
    instances = None
    if boxes is not None:
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        instances = Instances(
            boxes=boxes,
            scores=np.full(len(boxes), 0.9, np.float32) if scores is None else np.array(scores, np.float32),
            labels=np.array(["person"] * len(boxes) if labels is None else labels, np.object_),
            **fields,
        )
    return Packet(stream, 0, round(pts_s * 1e9), 0, size, None, instances)


def box(x, y=500.0, width=100.0, height=250.0):
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def ids(operator, *packets):
    return [p.instances.track_ids.tolist() for p in operator.process(list(packets))]


# A row per frame: seconds, then boxes as (centre x, score, label), or None where detection did not run.
P, H = "person", "horse"
TABLE = {
    "one person stays": ([(0.0, [(100, 0.9, P)]), (0.1, [(105, 0.9, P)]), (0.2, [(110, 0.9, P)])], [[1], [1], [1]]),
    "two persons in any order of rows": (
        [(0.0, [(100, 0.9, P), (900, 0.9, P)]), (0.1, [(900, 0.9, P), (100, 0.9, P)])],
        [[1, 2], [2, 1]],
    ),
    "a box too far away is another person": ([(0.0, [(100, 0.9, P)]), (0.1, [(400, 0.9, P)])], [[1], [2]]),
    "another label is another instance": ([(0.0, [(100, 0.9, P)]), (0.1, [(100, 0.9, H)])], [[1], [2]]),
    "labels decide between equal boxes": (
        [(0.0, [(100, 0.9, P), (102, 0.9, H)]), (0.1, [(102, 0.9, P), (100, 0.9, H)])],
        [[1, 2], [1, 2]],
    ),
    "a low score continues a track": ([(0.0, [(100, 0.9, P)]), (0.1, [(102, 0.2, P)])], [[1], [1]]),
    "a low score starts no track": ([(0.0, [(100, 0.4, P)]), (0.1, [(100, 0.4, P)])], [[], []]),
    "a score below low_score is ignored": ([(0.0, [(100, 0.9, P)]), (0.1, [(100, 0.05, P)])], [[1], []]),
    "a low score does not continue a lost track": (
        [(0.0, [(100, 0.9, P)]), (0.1, []), (0.2, [(100, 0.3, P)]), (0.3, [(100, 0.9, P)])],
        [[1], [], [], [1]],
    ),
    "a low score must overlap well": ([(0.0, [(100, 0.9, P)]), (0.1, [(150, 0.4, P)])], [[1], []]),
    "a high score takes precedence over a low one": ([(0.0, [(100, 0.9, P)]), (0.1, [(100, 0.4, P), (110, 0.9, P)])], [[1], [1]]),
    "two detections cannot share a track": ([(0.0, [(100, 0.9, P)]), (0.1, [(100, 0.9, P), (104, 0.9, P)])], [[1], [1, 2]]),
    "detection has not run yet": ([(0.0, None), (0.1, [(100, 0.9, P)])], [None, [1]]),
    "detection ran and found none": ([(0.0, []), (0.1, None)], [[], []]),
    "predicted while detection is skipped": ([(0.0, [(100, 0.9, P)]), (0.1, None), (0.2, None), (0.3, [(100, 0.9, P)])], [[1]] * 4),
    "lost tracks are not predicted": (
        [(0.0, [(100, 0.9, P)]), (0.1, []), (0.2, None), (0.3, [(100, 0.9, P)])],
        [[1], [], [], [1]],
    ),
    "clock jumps back": ([(5.0, [(100, 0.9, P)]), (4.9, [(100, 0.9, P)])], [[1], [2]]),
    "clock jumps ahead": ([(5.0, [(100, 0.9, P)]), (7.1, [(100, 0.9, P)])], [[1], [2]]),
    "clock jumps ahead while detection is skipped": ([(5.0, [(100, 0.9, P)]), (7.1, None), (7.2, [(100, 0.9, P)])], [[1], None, [2]]),
    "clock stands still": ([(5.0, [(100, 0.9, P)]), (5.0, [(100, 0.9, P)])], [[1], [1]]),
    "rare detection does not end a track": (
        [(0.0, [(100, 0.9, P)]), (1.5, None), (3.0, None), (4.5, [(100, 0.9, P)])],
        [[1]] * 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_table(case):
    frames, expected = TABLE[case]
    operator, found = Track(), []
    for pts_s, rows in frames:
        given = packet(pts_s)
        if rows is not None:
            given = packet(
                pts_s, [box(x) for x, _, _ in rows], [s for _, s, _ in rows], [n for _, _, n in rows]
            )
        instances = operator.process([given])[0].instances
        found.append(None if instances is None else instances.track_ids.tolist())
    assert found == expected


def test_rows_keep_the_fields_of_their_detections():
    boxes, rois = [box(100), box(500), box(900)], np.arange(15, dtype=np.float32).reshape(3, 5)
    given = packet(0, boxes, [0.9, 0.2, 0.7], ["horse", "horse", "person"], rois=rois)
    operator = Track()
    tracked = operator.process([given])[0].instances.validate()
    np.testing.assert_array_equal(tracked.boxes, given.instances.boxes[[0, 2]])
    np.testing.assert_array_equal(tracked.scores, given.instances.scores[[0, 2]])
    np.testing.assert_array_equal(tracked.rois, rois[[0, 2]])
    assert tracked.labels.tolist() == ["horse", "person"]
    assert tracked.detected.tolist() == [True, True]
    assert operator.counters == {"detections without a track": 1}
    again = operator.process([packet(0.1, [box(105)], [0.8], ["horse"])])[0].instances
    np.testing.assert_array_equal(again.boxes, [np.float32(box(105))])  # the detection's, not the filter's


@pytest.mark.parametrize("fps", [10, 25, 60])
@pytest.mark.parametrize("noise_px", [0, 4])
def test_crossing_people_keep_their_ids(rng, fps, noise_px):
    operator = Track()
    for t in np.arange(0, 6, 1 / fps):
        centres = np.array([200 + 180 * t, 1280 - 180 * t])  # they meet after 3 s
        boxes = np.array([box(centres[0], 520), box(centres[1], 480)]) + rng.normal(0, noise_px, (2, 4))
        assert ids(operator, packet(t, boxes)) == [[1, 2]]


@pytest.mark.parametrize("fps", [10, 60])
@pytest.mark.parametrize(("hidden_s", "expected"), [(0.5, 1), (1.8, 1), (2.2, 2), (5.0, 2)])
def test_occlusions_are_measured_in_seconds(fps, hidden_s, expected):
    operator, found = Track(lost_s=2.0), []
    for t in np.arange(0, 3 + hidden_s + 2, 1 / fps):
        visible = t < 3 or t > 3 + hidden_s
        found += ids(operator, packet(t, [box(300 + 60 * t)] if visible else []))
    assert found[0] == [1]
    assert found[-1] == [expected]


@pytest.mark.parametrize("hidden_s", [0.5, 1.5])
def test_two_cross_while_one_is_hidden_by_the_other(hidden_s):
    operator = Track()
    for t in np.arange(0, 6, 1 / 30):
        boxes = [box(200 + 180 * t, 520), box(1280 - 180 * t, 480)]
        shown = [0] if abs(t - 3) < hidden_s / 2 else [0, 1]
        assert ids(operator, packet(t, [boxes[i] for i in shown])) == [[i + 1 for i in shown]]


@pytest.mark.parametrize("every", [2, 5, 10])
def test_predicted_boxes_follow_the_motion(every):
    operator, errors = Track(), []
    for frame in range(120):
        t = frame / 30
        truth = np.array([box(200 + 150 * t), box(1500 - 90 * t, 300 + 60 * t)])
        instances = operator.process([packet(t, truth if frame % every == 0 else None)])[0].instances
        assert instances.track_ids.tolist() == [1, 2]
        assert instances.detected.tolist() == [frame % every == 0] * 2
        assert instances.labels.tolist() == ["person", "person"]
        np.testing.assert_allclose(instances.scores, 0.9)
        if t > 1:
            errors.append(np.abs(instances.validate().boxes - truth).max())
    assert max(errors) < 5  # px, of boxes 250 px high


def test_predicted_boxes_outside_the_frame_are_left_out():
    operator, counts = Track(), []
    for frame in range(75):
        t = frame / 25
        x = 500 + 200 * t
        given = packet(t, [box(x)] if frame < 26 else None, size=(800, 1000))
        counts.append(len(operator.process([given])[0].instances))
    assert counts[26] == 1
    assert counts[-1] == 0


def test_streams_are_independent_and_end_independently():
    operator = Track()
    assert ids(operator, packet(0, [box(100)]), packet(0, [box(900), box(100)], stream="b")) == [[1], [1, 2]]
    assert ids(operator, packet(0.1, [box(100)], stream="b"), packet(0.1, [box(900)])) == [[2], [2]]
    operator.end_stream("a")
    assert ids(operator, packet(0.2, [box(100)], stream="b")) == [[2]]
    operator.end_stream("b")
    assert not operator.streams


def test_ids_are_never_used_twice_after_a_reset():
    operator = Track()
    assert ids(operator, packet(0, [box(100), box(500)])) == [[1, 2]]
    operator.reset("a")
    assert ids(operator, packet(0.1, [box(100), box(500)])) == [[3, 4]]


def test_a_stream_that_ends_and_comes_again_gets_new_ids():
    operator = Track()
    assert ids(operator, packet(0, [box(100), box(500)])) == [[1, 2]]
    operator.end_stream("a")
    assert ids(operator, packet(0, [box(100)])) == [[3]]


def test_another_picture_size_begins_new_tracks():
    operator = Track()
    assert ids(operator, packet(0, [box(100)]), packet(0.1, [box(100)], size=(640, 360))) == [[1], [2]]


def test_memory_is_bounded():
    operator = Track(lost_s=1.0)
    for frame in range(300):  # a new animal in each frame, at 10 Hz
        operator.process([packet(frame / 10, [box(10_000 * frame)])])
    assert len(operator.streams["a"].tracks.ids) <= 12


def test_detections_without_labels_are_tracked_without_labels():
    operator = Track()
    first, second = packet(0, [box(100)]), packet(0.1)
    first = first.replace(instances=first.instances.without("labels"))
    found = [p.instances for p in operator.process([first, second])]
    assert [one.track_ids.tolist() for one in found] == [[1], [1]]
    assert ["labels" in one for one in found] == [False, False]


def test_a_crowd_keeps_its_ids_despite_noise_and_low_scores(rng):
    operator, n = Track(), 10
    starts, speeds = rng.uniform(100, 1800, n), rng.uniform(-40, 40, n)
    ys = 300 + 60 * np.arange(n)
    by_person = [set() for _ in range(n)]
    for t in np.arange(0, 8, 1 / 25):
        boxes = np.array([box(x, y, 60, 120) for x, y in zip(starts + speeds * t, ys, strict=True)])
        boxes += rng.normal(0, 2, boxes.shape)
        seen = np.flatnonzero(rng.uniform(size=n) > 0.1)
        scores = np.where(rng.uniform(size=n) < 0.2, 0.3, 0.9) if t > 0 else np.full(n, 0.9)
        instances = operator.process([packet(t, boxes[seen], scores[seen])])[0].instances
        for row, found in zip(instances.track_ids, instances.boxes, strict=True):
            person = int(np.flatnonzero((np.float32(boxes) == found).all(axis=1))[0])
            by_person[person].add(int(row))
    assert sum(len(found) for found in by_person) <= n + 2


@pytest.mark.parametrize("seed", range(4))
def test_many_streams_in_a_batch_are_tracked_like_single_packets(seed):
    """Persons cross, appear and disappear; detection skips some frames; streams are not in step."""
    random = np.random.default_rng(seed)
    packets = []
    for stream in "abcdef":
        at, speed = random.uniform(200, 800, (4, 2)), random.normal(0, 60, (4, 2))
        for n in range(30):
            boxes = np.array([box(*centre) for centre in at + n / 10 * speed + random.normal(0, 2, (4, 2))])
            seen = random.random(4) < 0.9
            scores = random.choice([0.05, 0.3, 0.9, 0.95], 4, p=[0.05, 0.15, 0.4, 0.4])[seen]
            detected = random.random() < 0.8
            packets.append(
                packet(n / 10, boxes[seen] if detected else None, scores, ["person"] * len(scores), stream)
            )
    packets.sort(key=lambda one: (one.pts_ns, random.random()))
    together, single, found = Track(), Track(), []
    for start in range(0, len(packets), 16):
        found += together.process(packets[start : start + 16])
    for one, given in zip(found, packets, strict=True):
        (expected,) = single.process([given])
        assert (one.stream, one.pts_ns) == (given.stream, given.pts_ns)
        if expected.instances is None:
            assert one.instances is None
            continue
        for name, values in expected.instances.fields.items():
            np.testing.assert_array_equal(one.instances[name], values, err_msg=name)
    assert together.counters == single.counters
    assert max(one.instances.track_ids.max(initial=0) for one in found if one.instances) >= 4
