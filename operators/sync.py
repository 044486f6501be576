"""Group the frames that several cameras took at the same time, for operators that need several views."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from operators.cameras.frame_matching import NEVER, Group, best_group
from operators.cameras.frame_queue import FrameQueue, Held, Item
from pipeline.errors import OptionError
from pipeline.operator import Operator, Ports, RunInfo
from pipeline.packet import End, Event, Packet

HELD_MAX = 1000  # most frames of one camera that wait for others; the only limit for files
# Why frames are dropped.
NO_PARTNER = "no partner in time"
CLOCK_WENT_BACK = "the clock went back"
LATE = "a camera is late"
LOST = "a camera is lost"

Tolerance = Annotated[float, Field(ge=0, description="from the earliest to the latest frame of a group")]
Cameras = Annotated[
    list[str] | Annotated[int, Field(ge=2)] | None,
    Field(description="cameras of a complete group: their names, or how many; else all that give frames"),
]
Wait = Annotated[
    float, Field(ge=0, description="live: how long a frame waits at most for frames of other cameras")
]
Incomplete = Annotated[
    Literal["drop", "pass"], Field(description="what to do with frames for which no group is complete")
]
Clock = Annotated[
    Literal["captured", "pts"] | None,
    Field(description="which times to compare; live: captured, files: pts, which must then start together"),
]


class Sync(Operator):
    """Give the packets of a group one after the other, all with the same `moment_ns`.

    A group has at most one frame of each camera, all within `tolerance_ms`. Frames go to the largest group,
    then to that with the least spread; with a tolerance of less than half a frame period there is never a
    choice. `moment_ns` is the mean of the group's times: UNIX time with the clock `captured`, the files' own
    time with `pts`.

    A frame for which no group is complete is dropped and counted with the reason. With `incomplete: pass`
    smaller groups pass too, and single frames without `moment_ns`. If cameras are named, the packets of all
    others pass unchanged. Each stream keeps the order of its packets, its events and its end.

    In a live run a frame waits for others no longer than `wait_ms` (checked when a packet or event of any
    camera comes in), and does not wait for a camera that is lost. Files are read in parallel and waited for.
    """

    across_streams = True
    holds_packets = True
    drop_reasons = (NO_PARTNER, CLOCK_WENT_BACK, LATE, LOST)
    now_ns: Callable[[], int] = staticmethod(time.monotonic_ns)

    def __init__(
        self,
        tolerance_ms: Tolerance = 15.0,
        cameras: Cameras = None,
        wait_ms: Wait = 500.0,
        incomplete: Incomplete = "drop",
        clock: Clock = None,
    ):
        self.tolerance_ns, self.wait_ns = round(tolerance_ms * 1e6), round(wait_ms * 1e6)
        self.wanted, self.incomplete, self.clock = cameras, incomplete, clock

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """Refuse names that cannot form a group.

        Raises:
            OptionError: fewer than two different cameras.
        """
        cameras = options.get("cameras")
        if isinstance(cameras, list) and (len(cameras) < 2 or len(set(cameras)) < len(cameras)):
            raise OptionError("cameras", f"expected two or more different names, found {cameras}")
        return super().ports(options)

    def open(self, run: RunInfo) -> None:
        """Make a queue for each camera of the run."""
        self.live = run.live
        self.clock = self.clock or ("captured" if run.live else "pts")
        self.moment_ns = -1  # of the last group
        self.seen: set[str] = set()  # cameras that have given a frame
        self.cameras = {name: FrameQueue() for name in run.sources if self._is_wanted(name)}

    def _is_wanted(self, stream: str) -> bool:
        return not isinstance(self.wanted, list) or stream in self.wanted

    def process(self, packets: list[Packet]) -> list[Item]:
        """Queue frames, and give the groups that are complete or have waited long enough."""
        now = self.now_ns()
        passing: list[Item] = []
        for packet in packets:
            if not self._is_wanted(packet.stream):
                passing.append(packet)
                continue
            time_ns = packet.captured_ns if self.clock == "captured" else packet.pts_ns
            self.seen.add(packet.stream)
            self._camera(packet.stream).put(Held(packet, time_ns, now))
        return [*passing, *self._ready(now)]

    def pass_on(self, item: Event | End) -> list[Item]:
        """Queue an event or an end in its place between the frames."""
        camera = self.cameras.get(item.stream)
        now = self.now_ns()
        if camera is None:
            return [item, *self._ready(now)]
        if isinstance(item, Event) and item.kind in ("lost", "back"):
            camera.lost = item.kind == "lost"
        camera.put(Held(item, 0, now))
        return self._ready(now)

    def _camera(self, stream: str) -> FrameQueue:
        if stream not in self.cameras:
            # The stream of a topic has not the name of its source: remove sources that gave no frame
            # themselves.
            self.cameras = {name: camera for name, camera in self.cameras.items() if camera.has_begun}
            self.cameras[stream] = FrameQueue()
        return self.cameras[stream]

    def _ready(self, now_ns: int) -> list[Item]:
        """Take out what can leave now, in order."""
        out: list[Item] = []
        while True:
            out += self._leading_events()
            heads = {name: camera.held[0] for name, camera in self.cameras.items() if camera.held}
            if not heads:
                return out
            overdue = {
                name: why for name, head in heads.items() if (why := self._overdue(name, head, now_ns))
            }
            if overdue:
                start = min(heads[name].time_ns for name in overdue) - self.tolerance_ns
                names = [name for name, head in heads.items() if head.time_ns >= start]
                earliest_next = dict.fromkeys(names, NEVER)
            else:
                names = list(self.cameras)
                earliest_next = {name: self.cameras[name].earliest_next(self.live) for name in names}
                more_to_come = min(earliest_next.values()) < NEVER
                if self.live and more_to_come and self._wanted_unseen():
                    return out
            times = {name: self.cameras[name].times for name in names}
            group = best_group(times, earliest_next, self.tolerance_ns)
            if group is None:
                return out
            take = {name: self.cameras[name].take for name in names}
            out += self._release(take, group, next(iter(overdue.values()), NO_PARTNER))

    def _leading_events(self) -> Iterator[Item]:
        """Take out the events and ends that no frame of their camera precedes."""
        for name, camera in list(self.cameras.items()):
            while camera.held and not isinstance(camera.held[0].item, Packet):
                item = camera.take().item
                yield item
                if isinstance(item, End) and not camera.held:
                    del self.cameras[name]

    def _overdue(self, name: str, head: Held, now_ns: int) -> str | None:
        """Why a camera's next frame must not wait any longer; None if it may."""
        camera = self.cameras[name]
        if camera.clock_went_back:
            return CLOCK_WENT_BACK
        late = self.live and now_ns - head.since_ns > self.wait_ns
        return LATE if late or len(camera.held) > HELD_MAX else None

    def _wanted_unseen(self) -> bool:
        """Whether a camera that a complete group needs has not given a frame yet."""
        if isinstance(self.wanted, int):
            return len(self.seen) < self.wanted
        return self.wanted is not None and not self.seen.issuperset(self.wanted)

    def _release(self, take: Mapping[str, Callable[[], Held]], group: Group, why: str) -> Iterator[Packet]:
        """Take a group and the frames before it out of the queues; those may form smaller groups."""
        before = {name: deque(take[name]() for _ in range(n)) for name, n in group.before.items()}
        together = {name: take[name]() for name in group.members}
        while any(before.values()):
            times = {name: [held.time_ns for held in queue] for name, queue in before.items()}
            smaller = best_group(times, dict.fromkeys(before, NEVER), self.tolerance_ns)
            assert smaller is not None  # no more frames are expected
            yield from self._release({name: queue.popleft for name, queue in before.items()}, smaller, why)
        yield from self._give(together, why)

    def _give(self, group: dict[str, Held], why: str) -> Iterator[Packet]:
        packets = [held.item for held in group.values() if isinstance(held.item, Packet)]
        complete = self._is_complete(group)
        if not complete and self.incomplete == "drop":
            lost = any(camera.lost for name, camera in self.cameras.items() if name not in group)
            for packet in packets:
                self.drop(packet, LOST if lost else why)
        elif len(packets) == 1:
            self.count("passed alone")
            yield from packets
        else:
            self.count("groups" if complete else "incomplete groups")
            moment_ns = self._moment([held.time_ns for held in group.values()])
            yield from (packet.replace(moment_ns=moment_ns) for packet in packets)

    def _is_complete(self, group: Mapping[str, Held]) -> bool:
        if isinstance(self.wanted, int):
            return len(group) >= self.wanted
        giving = {name for name, camera in self.cameras.items() if camera.has_begun and not camera.lost}
        return len(group) > 1 and group.keys() >= (giving if self.wanted is None else set(self.wanted))

    def _moment(self, times_ns: list[int]) -> int:
        """The mean of the times; a ns after the last group's if it would be equal or slightly earlier."""
        moment_ns = sum(times_ns) // len(times_ns)
        if 0 <= self.moment_ns - moment_ns <= self.tolerance_ns:
            moment_ns = self.moment_ns + 1
        self.moment_ns = moment_ns
        return moment_ns
