import numpy as np
import pytest

from operators.smooth import Smooth
from pipeline.errors import OptionError
from pipeline.packet import Instances, Packet


def packet(pts_s, ids, keypoints, stream="a", **fields):
    points = np.asarray(keypoints, np.float32).reshape(len(ids), -1, 2)
    points_3d = np.concatenate([points, points[..., :1]], axis=2) / 100
    instances = Instances(
        keypoints=points,
        keypoints_3d=points_3d,
        keypoint_scores=np.ones(points.shape[:2], np.float32),
        track_ids=np.array(ids, np.int64),
        **fields,
    )
    return Packet(stream, 0, round(pts_s * 1e9), 0, (640, 480), None, instances)


def walk(frames, tracks, keypoints=5):
    return 100 + np.cumsum(np.random.default_rng(2).normal(size=(frames, tracks, keypoints, 2)), axis=0)


def smoothed(operator, field, packets):
    return [getattr(operator.process([p])[0].instances, field) for p in packets]


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({}, {"keypoints_3d"}),
        ({"keypoints": True}, {"keypoints", "keypoints_3d"}),
        ({"keypoints": True, "keypoints_3d": False}, {"keypoints"}),
    ],
)
def test_only_the_chosen_fields_change(options, changed):
    operator, motion = Smooth(**options), walk(2, 2)
    operator.process([packet(0, [1, 2], motion[0])])
    before = packet(0.04, [1, 2], motion[1])
    after = operator.process([before])[0].instances
    assert {
        name for name in after.fields if not np.array_equal(after[name], before.instances[name])
    } == changed
    assert all(after[name].dtype == before.instances[name].dtype for name in after.fields)


def test_tracks_are_filtered_independently_of_rows_and_other_tracks():
    motion = walk(40, 3)
    alone = [
        smoothed(Smooth(), "keypoints_3d", [packet(t / 25, [7], motion[t, i]) for t in range(40)])
        for i in range(3)
    ]
    together = Smooth()
    for t in range(40):
        rows = np.random.default_rng(t).permutation(3)
        instances = together.process([packet(t / 25, rows + 10, motion[t, rows])])[0].instances
        for row, i in enumerate(rows):
            np.testing.assert_allclose(instances.keypoints_3d[row], alone[i][t][0], rtol=1e-6)


def test_2d_smoothing_is_independent_of_the_object_size():
    motion = walk(30, 1)
    options = {"keypoints": True, "keypoints_3d": False}
    small = smoothed(Smooth(**options), "keypoints", [packet(t / 25, [1], motion[t]) for t in range(30)])
    large = smoothed(Smooth(**options), "keypoints", [packet(t / 25, [1], 8 * motion[t]) for t in range(30)])
    np.testing.assert_allclose(8 * np.array(small), large, rtol=1e-4)


def test_rows_without_id_and_packets_without_instances_are_unchanged():
    operator, motion = Smooth(), walk(2, 2)
    operator.process([packet(0, [1, -1], motion[0])])
    before = packet(0.04, [1, -1], motion[1])
    after = operator.process([before])[0].instances
    assert (after.keypoints_3d[0] != before.instances.keypoints_3d[0]).all()
    np.testing.assert_array_equal(after.keypoints_3d[1], before.instances.keypoints_3d[1])
    nothing = before.replace(instances=None)
    untracked = before.replace(instances=before.instances.without("track_ids"))
    none_found = before.replace(instances=Instances.empty())
    assert operator.process([nothing, untracked, none_found]) == [nothing, untracked, none_found]


def test_nan_keypoints_do_not_spoil_a_track():
    operator, motion = Smooth(keypoints=True), walk(3, 1)
    motion[1, 0, 2] = np.nan
    points = smoothed(operator, "keypoints", [packet(t / 25, [1], motion[t]) for t in range(3)])
    assert np.isnan(points[1][0, 2]).all()
    assert np.isfinite(points[2]).all()
    all_nan = packet(0.2, [1], np.full((1, 5, 2), np.nan))
    assert np.isnan(operator.process([all_nan])[0].instances.keypoints).all()


@pytest.mark.parametrize(
    "how", ["end_stream", "reset", "clock jumps back", "unseen for long", "other skeleton", "other size"]
)
def test_filters_start_anew(how):
    operator, motion = Smooth(forget_s=2.0), walk(2, 1)
    operator.process([packet(10, [1], motion[0])])
    later = packet(10.04, [1], motion[1])
    if how in ("end_stream", "reset"):
        getattr(operator, how)("a")
    elif how == "clock jumps back":
        later = packet(3, [1], motion[1])
    elif how == "other size":
        later = later.replace(size=(64, 48))
    elif how == "unseen for long":
        later = packet(12.5, [1], motion[1])
    else:
        later = packet(10.04, [1], motion[1, :, :3])
    after = operator.process([later])[0].instances
    np.testing.assert_array_equal(after.keypoints_3d, later.instances.keypoints_3d)


def test_streams_are_independent_and_memory_is_bounded():
    operator, motion = Smooth(forget_s=1.0), walk(200, 1)
    for t in range(200):  # a new id in each frame, at 10 Hz
        operator.process([packet(t / 10, [t], motion[t]), packet(t / 10, [1], motion[t], stream="b")])
    assert len(operator.filters["a"]["keypoints_3d"].ids) <= 11
    assert operator.filters["b"]["keypoints_3d"].ids.tolist() == [1]
    operator.end_stream("a")
    operator.end_stream("b")
    assert not operator.filters
    assert not operator.last


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({}, {"keypoints", "track_ids", "keypoints_3d"}),
        ({"keypoints": True, "keypoints_3d": False}, {"keypoints", "track_ids"}),
        ({"keypoints_3d": False}, OptionError),
    ],
)
def test_ports(options, needs):
    if needs is OptionError:
        with pytest.raises(OptionError, match="nothing to smooth"):
            Smooth.ports(options)
    else:
        assert Smooth.ports(options).needs == needs
