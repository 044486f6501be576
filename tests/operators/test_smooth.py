import math

import numpy as np
import pytest

from operators.smooth import OneEuro, Smooth
from pipeline.errors import OptionError
from pipeline.packet import Instances, Packet

REGULAR = np.arange(60) * 33_333_333
IRREGULAR = np.cumsum(np.random.default_rng(1).integers(1_000_000, 90_000_000, 60))


def one_euro_by_hand(values, times_ns, min_cutoff, beta, derivative_cutoff, scale):
    """The filter of one signal, a sample at a time."""

    def alpha(cutoff, dt):
        return 1 / (1 + 1 / (2 * math.pi * cutoff * dt))

    out, derivative, raw, filtered, last = [], 0.0, None, None, None
    for value, now in zip(values, times_ns, strict=True):
        if raw is None:
            filtered = value
        else:
            dt = (now - last) / 1e9
            a = alpha(derivative_cutoff, dt)
            derivative = a * (value - raw) * scale / dt + (1 - a) * derivative
            a = alpha(min_cutoff + beta * abs(derivative), dt)
            filtered = a * value + (1 - a) * filtered
        raw, last = value, now
        out.append(filtered)
    return out


@pytest.mark.parametrize("times_ns", [REGULAR, IRREGULAR], ids=["regular", "irregular"])
@pytest.mark.parametrize(
    ("min_cutoff", "beta", "scale"), [(1.0, 0.0, 1.0), (0.05, 80.0, 1 / 200), (0.1, 40.0, 1.0)]
)
def test_one_euro_agrees_with_the_scalar_formula(times_ns, min_cutoff, beta, scale):
    signals = np.cumsum(np.random.default_rng(3).normal(size=(60, 3, 2)), axis=0)
    one_euro = OneEuro(min_cutoff, beta, 1.0)
    filtered = np.array([one_euro(values, now, scale) for values, now in zip(signals, times_ns, strict=True)])
    for i, j in np.ndindex(3, 2):
        expected = one_euro_by_hand(signals[:, i, j], times_ns, min_cutoff, beta, 1.0, scale)
        np.testing.assert_allclose(filtered[:, i, j], expected, rtol=1e-9)


def test_one_euro_passes_the_first_sample_and_samples_without_new_time():
    one_euro = OneEuro(0.05, 1.0)
    first, second = np.array([1.0, 2.0]), np.array([5.0, -5.0])
    assert one_euro(first, 1000) is first or (one_euro(first, 1000) == first).all()
    np.testing.assert_array_equal(one_euro(second, 1000), second)
    np.testing.assert_array_equal(one_euro(second, 10), second)
    assert (one_euro(second, 33_000_000) != second).all()


def test_nan_leaves_the_state_of_its_element_alone():
    signal = np.cumsum(np.random.default_rng(3).normal(size=60))
    gaps = np.zeros(60, bool)
    gaps[[0, 7, 8, 9, 30]] = True
    one_euro = OneEuro(0.05, 5.0)
    pairs = np.stack([signal, np.where(gaps, np.nan, signal)], axis=1)
    filtered = np.array([one_euro(pair, now) for pair, now in zip(pairs, IRREGULAR, strict=True)])
    np.testing.assert_array_equal(np.isnan(filtered[:, 1]), gaps)
    expected = one_euro_by_hand(signal[~gaps], IRREGULAR[~gaps], 0.05, 5.0, 1.0, 1.0)
    np.testing.assert_allclose(filtered[~gaps, 1], expected, rtol=1e-9)


def test_an_element_restarts_after_a_long_gap():
    one_euro = OneEuro(0.05, 0.0, restart_s=2.0)
    one_euro(np.array([0.0, 0.0]), 0)
    one_euro(np.array([0.0, np.nan]), 1_500_000_000)
    kept, restarted = one_euro(np.array([100.0, 100.0]), 2_500_000_000)
    assert kept < 50
    assert restarted == 100


def test_one_euro_refuses_another_shape():
    one_euro = OneEuro(1.0, 0.0)
    one_euro(np.zeros(3), 0)
    with pytest.raises(ValueError, match=r"\(3,\) before, found \(4,\)"):
        one_euro(np.zeros(4), 1)


def packet(pts_s, ids, keypoints, stream="a", **fields):
    points = np.asarray(keypoints, np.float32).reshape(len(ids), -1, 2)
    deep = np.concatenate([points, points[..., :1]], axis=2) / 100
    instances = Instances(
        keypoints=points,
        keypoints_3d=deep,
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


def test_tracks_are_filtered_alone_whatever_their_rows_and_neighbours():
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


def test_settings_are_independent_of_size_in_2d():
    motion = walk(30, 1)
    options = {"keypoints": True, "keypoints_3d": False}
    small = smoothed(Smooth(**options), "keypoints", [packet(t / 25, [1], motion[t]) for t in range(30)])
    large = smoothed(Smooth(**options), "keypoints", [packet(t / 25, [1], 8 * motion[t]) for t in range(30)])
    np.testing.assert_allclose(8 * np.array(small), large, rtol=1e-4)


def test_rows_without_id_and_packets_without_instances_pass():
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


def test_nan_keypoints_do_not_poison_a_track():
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
def test_state_is_dropped(how):
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


def test_streams_share_nothing_and_memory_is_bounded():
    operator, motion = Smooth(forget_s=1.0), walk(200, 1)
    for t in range(200):  # a new id in each frame, at 10 Hz
        operator.process([packet(t / 10, [t], motion[t]), packet(t / 10, [1], motion[t], stream="b")])
    assert len(operator.tracks["a"]["keypoints_3d"].ids) <= 11
    assert operator.tracks["b"]["keypoints_3d"].ids.tolist() == [1]
    operator.end_stream("a")
    operator.end_stream("b")
    assert not operator.tracks
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
