import itertools

import pytest

from operators.cameras.clock import StreamClock
from operators.cameras.errors import CameraError
from operators.cameras.watchdog import Watchdog

S = 10**9


def run(steps):
    """(pts, jump) in seconds for each step, which is (pts, arrival) in seconds, or None for a new connection."""
    clock = StreamClock()
    given = []
    for step in steps:
        if step is None:
            clock.restart()
            continue
        pts_s, arrived_s = step
        times = clock.times(None if pts_s is None else round(pts_s * S), round((1000 + arrived_s) * S), None)
        given.append((times.pts_ns / S, None if times.jumped_ns is None else times.jumped_ns / S))
    return given


@pytest.mark.parametrize(
    ("steps", "pts_s", "jumps_s"),
    [
        ([(5, 0), (5.5, 0.5), (6, 1)], [5, 5.5, 6], []),
        ([(5, 0), (5.5, 3), (6, 3)], [5, 5.5, 6], []),  # the network has delayed them
        ([(5, 0), (8, 3), (8.5, 3.5)], [5, 8, 8.5], []),  # and three seconds were lost
        ([(5, 0), (105.5, 0.5), (106, 1)], [5, 5.5, 6], [100]),
        ([(50, 0), (0, 0.5), (0.5, 1), (1, 1.5)], [50, 50.5, 51, 51.5], [-50.5]),
        ([(5, 0), (5.5, 0.5), None, (0, 10.5), (0.5, 11)], [5, 5.5, 15.5, 16], []),
        ([(None, 0), (0, 0), (0.5, 0.5)], [0, 1e-9, 0.5], []),
        ([(None, 0), (None, 0.5), (None, 0.75)], [0, 0.5, 0.75], []),
    ],
)
def test_the_clock_never_stops_jumps_or_goes_back(steps, pts_s, jumps_s):
    given = run(steps)
    assert [pts for pts, _ in given] == pytest.approx(pts_s, abs=1e-6)
    assert [jump for _, jump in given if jump is not None] == pytest.approx(jumps_s)
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(given))


@pytest.mark.parametrize(("behind_s", "used"), [(0.1, True), (-0.1, True), (60, False), (-3600, False)])
def test_a_time_of_capture_far_from_the_arrival_is_not_used(behind_s, used):
    arrived_ns = 2000 * S
    captured_ns = arrived_ns - round(behind_s * S)
    times = StreamClock().times(0, arrived_ns, captured_ns)
    assert (times.trusted, times.captured_ns) == (used, captured_ns if used else arrived_ns)


@pytest.mark.parametrize(
    ("heard_s", "seen_s", "now_s", "reason"),
    [
        (None, None, 109.9, None),
        (None, None, 110.1, "no answer for 10 s"),
        (101, None, 105.9, None),
        (101, None, 106.1, "no data for 5 s"),
        (114, None, 114.5, None),  # the first key frame may come late
        (114, None, 115.1, "data, but no frame for 15 s"),
        (120, 118, 122.9, None),
        (120, 118, 123.1, "no frame for 5 s"),
    ],
)
def test_when_a_connection_is_dead(heard_s, seen_s, now_s, reason):
    watchdog = Watchdog(10, 5, started_s=100, heard_s=heard_s, seen_s=seen_s)
    if reason is None:
        assert watchdog.left_s(now_s) > 0
    else:
        with pytest.raises(CameraError, match=reason):
            watchdog.left_s(now_s)
