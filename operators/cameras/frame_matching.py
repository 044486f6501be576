"""Which frames of several cameras belong together, by their times alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

NOTHING_MORE = math.inf


class Group(NamedTuple):
    """Frames that belong together."""

    first: dict[str, int]  # camera: how many of its frames lie before the group
    members: list[str]  # the cameras whose next frame is in it
    spread_ns: int  # from the earliest of them to the latest


def best_group(
    times: Mapping[str, Sequence[int]], not_before: Mapping[str, float], tolerance_ns: int
) -> Group | None:
    """The next group of frames that lie within the tolerance, at most one of each camera.

    Of groups that need the same frame the largest is best, then the closest. Frames that lie before it have
    no place in it.

    Args:
        times: camera to the times of its frames in ns, ascending; one frame at least.
        not_before: camera to the time before which the next frame, which is not here yet, cannot be; inf
            where none will come.
        tolerance_ns: from the earliest to the latest frame of a group.

    Returns:
        None if a frame that is not here yet could make the group better.

    A group's earliest frame is best met by the first frame of each other camera behind it, so a sweep over
    the frames in order of time sees all groups worth a look, like ROS's message_filters::ApproximateTime.
    """
    at = dict.fromkeys(times, 0)
    best: Group | None = None
    while True:
        now = {camera: _time(frames, at[camera], not_before[camera]) for camera, frames in times.items()}
        known = [camera for camera in times if at[camera] < len(times[camera])]
        if best is not None:
            match _may_be_beaten(best, at, now, known, tolerance_ns):
                case None:
                    return None
                case False:
                    return best
        low = min(known, key=now.__getitem__)
        end = now[low] + tolerance_ns
        if best is None and any(now[camera] <= end for camera in times if camera not in known):
            return None
        members = [camera for camera in known if now[camera] <= end]
        spread_ns = int(max(now[camera] for camera in members) - now[low])
        if best is None or (len(members), -spread_ns) > (len(best.members), -best.spread_ns):
            best = Group(dict(at), members, spread_ns)
        at[low] += 1


def _time(frames: Sequence[int], index: int, not_before: float) -> float:
    return frames[index] if index < len(frames) else not_before


def _may_be_beaten(
    best: Group, at: Mapping[str, int], now: Mapping[str, float], known: Sequence[str], tolerance_ns: int
) -> bool | None:
    """Whether a later group that needs one of the same frames may be better; None: that is not known yet."""
    possible = False
    for shared in best.members:
        if at[shared] != best.first[shared]:
            continue
        reach = [camera for camera in now if now[camera] <= now[shared] + tolerance_ns]
        spread_ns = max(now[camera] for camera in reach) - now[shared]
        if (len(reach), -spread_ns) > (len(best.members), -best.spread_ns):
            if any(camera not in known for camera in reach):
                return None
            possible = True
    return possible
