"""Group the frames that several cameras took at the same time, for work that needs several views at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from operators.cameras.frame_matching import NOTHING_MORE, Group, best_group
from pipeline.errors import OptionError
from pipeline.operator import Operator, Ports, RunInfo
from pipeline.packet import End, Event, Packet

Item = Packet | Event | End

HELD_MAX = 1000  # frames of one camera that wait for others; for files that no clock bounds
# Why frames are dropped.
NO_PARTNER = "no partner in time"
CLOCK_WENT_BACK = "the clock went back"
LATE = "a camera is late"
LOST = "a camera is lost"
STEPS = 32  # frames of a camera whose shortest distance says how soon the next one may come

Tolerance = Annotated[float, Field(ge=0, description="from the earliest to the latest frame of a group")]
Cameras = Annotated[
    list[str] | Annotated[int, Field(ge=2)] | None,
    Field(description="that make a group whole: names, or how many; all that give frames unless told"),
]
Wait = Annotated[
    float, Field(ge=0, description="live: how long a frame waits for those of other cameras, at most")
]
Incomplete = Annotated[
    Literal["drop", "pass"], Field(description="what becomes of frames without a whole group")
]
Clock = Annotated[
    Literal["captured", "pts"] | None,
    Field(description="whose times count; live captured, files pts, which then must share their zero"),
]


class Sync(Operator):
    """Give the packets of a group one behind the other, all with the same `moment_ns`.

    A group has at most one frame of each camera, all within `tolerance_ms`. Frames go to the group that is
    largest, then closest; below half a frame's time of tolerance there is never a choice. `moment_ns` is the
    mean of its frames' times: UNIX time with the clock `captured`, the files' own with `pts`.

    A frame for which no whole group can be had is dropped and counted with the reason; with `incomplete:
    pass` smaller groups pass too, and frames alone, without `moment_ns`. Cameras that are not among the named
    pass as they are. Each stream keeps its order, its events and its end their places in it.

    Live, a frame waits for others no longer than `wait_ms` (and until the next packet or event of any camera
    comes in), and for a camera that is lost not at all. Files are read side by side and waited for.
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
        """Refuse names that cannot make a group.

        Raises:
            OptionError: fewer than two different cameras.
        """
        cameras = options.get("cameras")
        if isinstance(cameras, list) and (len(cameras) < 2 or len(set(cameras)) < len(cameras)):
            raise OptionError("cameras", f"expected two or more different names, found {cameras}")
        return super().ports(options)

    def open(self, run: RunInfo) -> None:
        """Note which cameras there are."""
        self.live = run.live
        self.clock = self.clock or ("captured" if run.live else "pts")
        self.moment_ns = -1  # of the last group
        self.seen: set[str] = set()  # cameras that have given a frame
        self.cameras = {name: _Camera() for name in run.sources if self._wants(name)}

    def _wants(self, stream: str) -> bool:
        return not isinstance(self.wanted, list) or stream in self.wanted

    def process(self, packets: list[Packet]) -> list[Item]:
        """Take frames in, and give the groups that are whole or have waited long enough."""
        now = self.now_ns()
        passing: list[Item] = []
        for packet in packets:
            if not self._wants(packet.stream):
                passing.append(packet)
                continue
            at_ns = packet.captured_ns if self.clock == "captured" else packet.pts_ns
            self.seen.add(packet.stream)
            self._camera(packet.stream).put(_Waiting(packet, at_ns, now))
        return [*passing, *self._settle(now)]

    def pass_on(self, item: Event | End) -> list[Item]:
        """Hold an event or an end in its place between the frames."""
        camera = self.cameras.get(item.stream)
        now = self.now_ns()
        if camera is None:
            return [item, *self._settle(now)]
        if isinstance(item, Event) and item.kind in ("lost", "back"):
            camera.lost = item.kind == "lost"
        camera.put(_Waiting(item, 0, now))
        return self._settle(now)

    def _camera(self, stream: str) -> _Camera:
        if stream not in self.cameras:
            # The run's sources may be topics, whose streams have names of their own.
            self.cameras = {name: camera for name, camera in self.cameras.items() if camera.begun}
            self.cameras[stream] = _Camera()
        return self.cameras[stream]

    def _settle(self, now_ns: int) -> list[Item]:
        """What can leave by now, in order."""
        out: list[Item] = []
        while True:
            out += self._markers()
            heads = {name: camera.waiting[0] for name, camera in self.cameras.items() if camera.waiting}
            if not heads:
                return out
            overdue = {
                name: why for name, head in heads.items() if (why := self._overdue(name, head, now_ns))
            }
            if overdue:
                start = min(heads[name].at_ns for name in overdue) - self.tolerance_ns
                names = [name for name, head in heads.items() if head.at_ns >= start]
                not_before = dict.fromkeys(names, NOTHING_MORE)
            else:
                names = list(self.cameras)
                not_before = {name: self.cameras[name].not_before(self.live) for name in names}
                some_will_come = min(not_before.values()) < NOTHING_MORE
                if self.live and some_will_come and self._some_never_seen():
                    return out
            times = {name: self.cameras[name].times for name in names}
            group = best_group(times, not_before, self.tolerance_ns)
            if group is None:
                return out
            take = {name: self.cameras[name].take for name in names}
            out += self._release(take, group, next(iter(overdue.values()), NO_PARTNER))

    def _markers(self) -> Iterator[Item]:
        """The events and ends in front of which no frame waits any more."""
        for name, camera in list(self.cameras.items()):
            while camera.waiting and not isinstance(camera.waiting[0].item, Packet):
                item = camera.take().item
                yield item
                if isinstance(item, End) and not camera.waiting:
                    del self.cameras[name]

    def _overdue(self, name: str, head: _Waiting, now_ns: int) -> str | None:
        """Why a camera's next frame must wait no longer."""
        camera = self.cameras[name]
        if camera.clock_went_back:
            return CLOCK_WENT_BACK
        waited = self.live and now_ns - head.since_ns > self.wait_ns
        return LATE if waited or len(camera.waiting) > HELD_MAX else None

    def _some_never_seen(self) -> bool:
        if isinstance(self.wanted, int):
            return len(self.seen) < self.wanted
        return self.wanted is not None and not self.seen.issuperset(self.wanted)

    def _release(
        self, take: Mapping[str, Callable[[], _Waiting]], group: Group, why: str
    ) -> Iterator[Packet]:
        """Take a group and what lies before it out of the queues; the latter may hold smaller groups."""
        before = {name: deque(take[name]() for _ in range(n)) for name, n in group.first.items()}
        together = {name: take[name]() for name in group.members}
        while any(before.values()):
            times = {name: [waiting.at_ns for waiting in queue] for name, queue in before.items()}
            smaller = best_group(times, dict.fromkeys(before, NOTHING_MORE), self.tolerance_ns)
            assert smaller is not None  # nothing is still to come
            yield from self._release({name: queue.popleft for name, queue in before.items()}, smaller, why)
        yield from self._give(together, why)

    def _give(self, group: dict[str, _Waiting], why: str) -> Iterator[Packet]:
        packets = [waiting.item for waiting in group.values() if isinstance(waiting.item, Packet)]
        whole = self._is_whole(group)
        if not whole and self.incomplete == "drop":
            lost = any(camera.lost for name, camera in self.cameras.items() if name not in group)
            for packet in packets:
                self.drop(packet, LOST if lost else why)
        elif len(packets) == 1:
            self.count("passed alone")
            yield from packets
        else:
            self.count("groups" if whole else "incomplete groups")
            moment_ns = self._moment([waiting.at_ns for waiting in group.values()])
            yield from (packet.replace(moment_ns=moment_ns) for packet in packets)

    def _is_whole(self, group: Mapping[str, _Waiting]) -> bool:
        if isinstance(self.wanted, int):
            return len(group) >= self.wanted
        giving = {name for name, camera in self.cameras.items() if camera.begun and not camera.lost}
        return len(group) > 1 and group.keys() >= (giving if self.wanted is None else set(self.wanted))

    def _moment(self, times_ns: list[int]) -> int:
        """The mean; a ns behind the last group's where it would be the same, or before it by a hair."""
        moment_ns = sum(times_ns) // len(times_ns)
        if 0 <= self.moment_ns - moment_ns <= self.tolerance_ns:
            moment_ns = self.moment_ns + 1
        self.moment_ns = moment_ns
        return moment_ns


class _Waiting(NamedTuple):
    """What waits in a camera's queue."""

    item: Item
    at_ns: int  # a frame's time
    since_ns: int  # when it came, by the monotonic clock


class _Camera:
    """A camera and what is held of it."""

    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.times: deque[int] = deque()  # of the frames in front of the next event, end or step back in time
        self.begun = self.lost = False
        self._newest_ns: int | None = None  # None: the next frame may have any time
        self._steps: deque[int] = deque(maxlen=STEPS)

    def put(self, waiting: _Waiting) -> None:
        """Queue what has come."""
        self.waiting.append(waiting)
        self._count_in(len(self.waiting) - 1)
        if not isinstance(waiting.item, Packet):
            self._newest_ns = None
            return
        self.begun, self.lost = True, False
        if self._newest_ns is not None and waiting.at_ns > self._newest_ns:
            self._steps.append(waiting.at_ns - self._newest_ns)
        self._newest_ns = waiting.at_ns

    def take(self) -> _Waiting:
        """What is next."""
        if self.times:
            self.times.popleft()
        taken = self.waiting.popleft()
        if not self.times:
            for index in range(len(self.waiting)):
                if not self._count_in(index):
                    break
        return taken

    def _count_in(self, index: int) -> bool:
        """Take what waits there into `times`, if that reaches so far and it is a later frame."""
        waiting = self.waiting[index]
        follows = index == len(self.times) and isinstance(waiting.item, Packet)
        if follows := follows and (not self.times or waiting.at_ns >= self.times[-1]):
            self.times.append(waiting.at_ns)
        return follows

    @property
    def clock_went_back(self) -> bool:
        """Whether frames with earlier times wait behind the next ones, which must make room for them."""
        n = len(self.times)
        return n < len(self.waiting) and isinstance(self.waiting[n].item, Packet)

    def not_before(self, live: bool) -> float:
        """The time before which the next frame behind `times` cannot be; likely not, where it is live."""
        if self.lost or len(self.times) < len(self.waiting):
            return NOTHING_MORE
        if self._newest_ns is None:
            return -NOTHING_MORE
        return self._newest_ns + (min(self._steps, default=0) if live else 0)
