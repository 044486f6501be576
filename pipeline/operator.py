"""What an operator is. Operators know nothing of threads, queues or batches: the runtime owns those."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from pipeline.packet import End, Event, Packet


class Ports(NamedTuple):
    """What an operator takes from a packet and what it puts there, as names of packet fields."""

    needs: frozenset[str]
    provides: frozenset[str]
    per_stream: bool | None = None  # None: as the operator's class says


class RunInfo(NamedTuple):
    """What an operator may know of the run it is part of."""

    id: str  # unique for every run
    graph: str  # its name
    started_ns: int  # UNIX time
    cores: int = 1  # how many processors one worker of this operator may keep busy
    live: bool = False  # sources are cameras, which wait for nobody
    sources: tuple[str, ...] = ()  # the names of those with which it began

    @classmethod
    def new(cls, graph: str) -> RunInfo:
        """A run that begins now."""
        return cls(uuid.uuid4().hex[:12], graph, time.time_ns())


class Operator:
    """Base of all operators. The typed arguments of a subclass's constructor ARE its YAML options.

    The constructor only keeps its options and is cheap; `open` loads models and opens files. With
    `workers: 3` the runtime makes three operators; each is only ever used by one thread at a time.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    provides: ClassVar[tuple[str, ...]] = ()
    # State that depends on the order of frames (tracks, filters, open files): all packets of a stream then go
    # to the same worker, in order. Without it, any worker may take any packet; order is restored behind it.
    per_stream: ClassVar[bool] = False
    # Works on packets of all streams of a run together (joins cameras, say): such a run stays in one process.
    across_streams: ClassVar[bool] = False
    # Keeps or shows results (files, a topic, a window): a graph with none of these keeps its results nowhere.
    sink: ClassVar[bool] = False
    # The reasons for which `drop` may end the way of a packet.
    drop_reasons: ClassVar[tuple[str, ...]] = ()
    # Keeps packets for later calls (until the frame of another camera has come, for example): they count as
    # in flight until their stream ends. Otherwise every call must give or drop all packets that it takes.
    holds_packets: bool = False
    _dropped: tuple[tuple[Packet, str], ...] = ()  # in the present call
    batch_max: ClassVar[int] = 1  # most packets a call, unless the graph says otherwise

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """Needs and provides under these options; override where options decide (a model with 3D, say).

        Also the place to refuse options that can be seen to be wrong before anything runs.

        Raises:
            OptionError: for an option that cannot work.
        """
        return Ports(frozenset(cls.needs), frozenset(cls.provides))

    def open(self, run: RunInfo) -> None:
        """Load models, open connections; runs once, in the stage's thread, before the first packet."""

    def process(self, packets: list[Packet]) -> Iterable[Packet | Event | End]:
        """Work on a batch (packets of all streams alike) and give the results, each stream in order."""
        raise NotImplementedError

    def end_stream(self, stream: str) -> Iterable[Packet]:
        """A stream has ended: give what is still held for it, close its files, forget its state."""
        return ()

    def reset(self, stream: str) -> None:
        """Forget the state of a stream; the next packet is treated as its first."""

    def event(self, event: Event) -> None:
        """Something happened to a stream, in this place between its packets; sinks write it down."""

    def pass_on(self, item: Event | End) -> Iterable[Packet | Event | End]:
        """An event or an end has come: what leaves now, the item behind what is held of its stream.

        Override it only where packets of one stream wait for those of another. The item may then be held
        like a packet, and leave by a later call of this or of `process`.
        """
        if isinstance(item, End):
            return [*self.end_stream(item.stream), item]
        if item.resets:
            self.reset(item.stream)
        self.event(item)
        return [item]

    def close(self) -> None:
        """Give back what `open` took; runs once, also after an error."""

    def count(self, event: str, n: int = 1) -> None:
        """Count something worth knowing (broken frames, lost tracks); the run's summary lists it."""
        self.counters[event] += n

    def drop(self, packet: Packet, reason: str) -> None:
        """End the way of a packet: it is not given on, and counts as dropped for this reason.

        Raises:
            ValueError: the class does not declare this reason in `drop_reasons`.
        """
        if reason not in self.drop_reasons:
            declared = ", ".join(map(repr, self.drop_reasons)) or "none"
            raise ValueError(
                f"{type(self).__name__} drops {packet.stream} frame {packet.seq} for {reason!r}, which is no "
                f"declared reason; add it to drop_reasons (now: {declared})"
            )
        self._dropped = (*self._dropped, (packet, reason))

    def take_dropped(self) -> Sequence[tuple[Packet, str]]:
        """The packets for which `drop` was called since the last time; for the runtime."""
        if dropped := self._dropped:
            self._dropped = ()
        return dropped

    @property
    def counters(self) -> Counter[str]:
        """What `count` has counted so far."""
        return self.__dict__.setdefault("_counters", Counter())


class Source(Operator):
    """An operator that makes packets: the runtime runs one thread of it for each source.

    As a rule a source is one stream. One that carries several (a topic) names them in its packets, and gives
    an `End` for each that ends before the source does.
    """

    provides: ClassVar[tuple[str, ...]] = ("image",)

    def read(self, stream: str, uri: str) -> Iterator[Packet | Event | End]:
        """Yield the packets of one source, in order, and what happens to it, until it ends.

        Raises:
            SourceError: one line that names the source, what was found and what was expected.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """Make `read` end soon, also where it waits for something; called by another thread."""

    def finished(self, packet: Packet) -> None:
        """This packet, and whatever of its stream came before it, has left the graph; by another thread."""

    def check(self, uri: str) -> None:
        """Refuse a source that cannot be read; called once, where a run over files is made.

        Raises:
            ConfigError, SourceError: one line that names the source, what was found and what was expected.
        """

    def frames_expected(self, uri: str) -> int | None:
        """How many packets `read` will give, for progress, as far as that is known without decoding."""
        return None
