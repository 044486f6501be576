"""The base classes of operators and sources; the runtime owns all threads, queues and batches."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from pipeline.packet import End, Event, Packet


class Ports(NamedTuple):
    """What an operator needs of a packet and what it provides, as names of packet fields."""

    needs: frozenset[str]
    provides: frozenset[str]
    per_stream: bool | None = None  # None: the value of the operator's class


class RunInfo(NamedTuple):
    """What an operator may know of its run."""

    id: str  # unique for every run
    graph: str  # its name
    started_ns: int  # UNIX time
    cores: int = 1  # processors that one worker of this operator may keep busy
    live: bool = False  # sources are cameras, which do not wait
    sources: tuple[str, ...] = ()  # names of the sources with which it began

    @classmethod
    def new(cls, graph: str) -> RunInfo:
        """A run that begins now."""
        return cls(uuid.uuid4().hex[:12], graph, time.time_ns())


class Operator:
    """Base of all operators. The typed arguments of a subclass's constructor ARE its YAML options.

    The constructor is cheap: it only keeps its options. `open` loads models and opens files. With
    `workers: 3` the runtime makes three operators; each is used by one thread at a time.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    provides: ClassVar[tuple[str, ...]] = ()
    # Has state that depends on the order of frames (tracks, filters, open files): all packets of a stream go
    # to the same worker, in order. Otherwise any worker takes any packet, and the stage restores the order.
    per_stream: ClassVar[bool] = False
    # Works on the packets of all streams together (joins cameras, for example): the run stays in one process.
    across_streams: ClassVar[bool] = False
    # Keeps or shows results: files, a topic, a window.
    sink: ClassVar[bool] = False
    # The reasons for which `drop` may end the way of a packet.
    drop_reasons: ClassVar[tuple[str, ...]] = ()
    # Keeps packets for later calls (until the frame of another camera has come, for example): they count as
    # in flight until their stream ends. Otherwise every call must give or drop all packets that it takes.
    holds_packets: bool = False
    batch_max: ClassVar[int] = 1  # most packets a call, unless the graph says otherwise

    _dropped: list[tuple[Packet, str]] | None = None  # in the present call

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """What is needed and provided under these options; override it where they matter (a model with 3D).

        Refuse options here if they are certain to fail, before anything runs.

        Raises:
            OptionError: for an option that cannot work.
        """
        return Ports(frozenset(cls.needs), frozenset(cls.provides))

    def open(self, run: RunInfo) -> None:
        """Load models, open connections; called once, in the worker's thread, before the first packet."""

    def process(self, packets: list[Packet]) -> Iterable[Packet | Event | End]:
        """Work on a batch, which mixes packets of all streams, and give the results, each stream in order."""
        raise NotImplementedError

    def end_stream(self, stream: str) -> Iterable[Packet]:
        """A stream has ended: give what is still held for it, close its files, forget its state."""
        return ()

    def reset(self, stream: str) -> None:
        """Forget the state of a stream; the next packet is treated as its first."""

    def event(self, event: Event) -> None:
        """Something happened to a stream between the packets before and after this call; sinks record it."""

    def pass_on(self, item: Event | End) -> Iterable[Packet | Event | End]:
        """Take an event or an end, and give what leaves now: held packets of its stream first, then the item.

        Override it only if packets of one stream wait for packets of another. The item may then be held like
        a packet, and leave in a later call of this method or of `process`.
        """
        if isinstance(item, End):
            return [*self.end_stream(item.stream), item]
        if item.resets:
            self.reset(item.stream)
        self.event(item)
        return [item]

    def close(self) -> None:
        """Release what `open` acquired; called once, also after an error."""

    def count(self, event: str, n: int = 1) -> None:
        """Count an event (broken frames, lost tracks); the run's summary lists the counts."""
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
        if self._dropped is None:
            self._dropped = []
        self._dropped.append((packet, reason))

    def take_dropped(self) -> Sequence[tuple[Packet, str]]:
        """The packets dropped since the last call of this method, with the reasons; for the runtime."""
        dropped = self._dropped
        if dropped is None:
            return ()
        self._dropped = None
        return dropped

    @property
    def counters(self) -> Counter[str]:
        """The counts of `count` so far."""
        return self.__dict__.setdefault("_counters", Counter())


class Source(Operator):
    """An operator that makes packets: the runtime runs one thread of it for each source.

    Most sources are one stream. A source of several streams (a topic) names them in its packets, and gives an
    `End` for each stream that ends before the source does.
    """

    provides: ClassVar[tuple[str, ...]] = ("image",)

    def read(self, stream: str, uri: str) -> Iterator[Packet | Event | End]:
        """Yield the packets and events of one source, in order, until it ends.

        Raises:
            SourceError: one line that names the source, what was found and what was expected.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """Make `read` end soon, even while it waits for something; called by another thread."""

    def finished(self, packet: Packet) -> None:
        """This packet, and all before it in its stream, have left the graph; called by another thread."""

    def check(self, uri: str) -> None:
        """Refuse a source that cannot be read; called once, where a run over files is made.

        Raises:
            ConfigError, SourceError: one line that names the source, what was found and what was expected.
        """

    def frames_expected(self, uri: str) -> int | None:
        """How many packets `read` will give, for progress, as far as that is known without decoding."""
        return None
