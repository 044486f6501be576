"""Decides which frames of several cameras belong together, by their times alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

NEVER = math.inf  # the time of a frame that will not come


class Group(NamedTuple):
    """Frames that belong together."""

    before: dict[str, int]  # by camera: how many of its frames come before the group
    members: list[str]  # the cameras of which the next frame is in the group
    spread_ns: int  # from the earliest frame to the latest


def best_group(
    times: Mapping[str, Sequence[int]], earliest_next: Mapping[str, float], tolerance_ns: int
) -> Group | None:
    """The next group of frames that lie within the tolerance, at most one of each camera.

    Of groups that need the same frame, the largest is best, then the one with the least spread. The frames
    before it are in no better group.

    A sweep over the frames in order of time sees all groups worth considering, since the best partner for the
    earliest frame of a group is, for each other camera, the first frame that is not earlier. This is how
    ROS's message_filters::ApproximateTime works.

    Args:
        times: by camera, the times of its frames in ns, ascending; at least one frame in all.
        earliest_next: by camera, the earliest time that a frame not here yet may have; `NEVER` if none comes.
        tolerance_ns: from the earliest to the latest frame of a group.

    Returns:
        None if a frame that is not here yet could make the group better.
    """
    at = dict.fromkeys(times, 0)  # by camera: the frame that the sweep has reached
    best: Group | None = None
    while True:
        now = {camera: _time(frames, at[camera], earliest_next[camera]) for camera, frames in times.items()}
        here = [camera for camera in times if at[camera] < len(times[camera])]
        if best is not None:
            match _better_possible(best, at, now, here, tolerance_ns):
                case None:
                    return None
                case False:
                    return best
        low = min(here, key=now.__getitem__)
        end = now[low] + tolerance_ns
        if best is None and any(now[camera] <= end for camera in times if camera not in here):
            return None
        members = [camera for camera in here if now[camera] <= end]
        spread_ns = int(max(now[camera] for camera in members) - now[low])
        if best is None or (len(members), -spread_ns) > (len(best.members), -best.spread_ns):
            best = Group(dict(at), members, spread_ns)
        at[low] += 1


def _time(frames: Sequence[int], index: int, earliest_next: float) -> float:
    return frames[index] if index < len(frames) else earliest_next


def _better_possible(
    best: Group, at: Mapping[str, int], now: Mapping[str, float], here: Sequence[str], tolerance_ns: int
) -> bool | None:
    """Whether a later group may be better and need one of the same frames; None if that is not known yet."""
    possible = False
    for shared in best.members:
        if at[shared] != best.before[shared]:
            continue
        reach = [camera for camera in now if now[camera] <= now[shared] + tolerance_ns]
        spread_ns = max(now[camera] for camera in reach) - now[shared]
        if (len(reach), -spread_ns) > (len(best.members), -best.spread_ns):
            if any(camera not in here for camera in reach):
                return None
            possible = True
    return possible
