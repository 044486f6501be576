"""Small operators for tests of the runtime: they count, wait, fail, and record what they receive."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import PipelineError, SinkError
from pipeline.graph import Graph, check_graph
from pipeline.operator import Operator, RunInfo, Source
from pipeline.packet import End, Event, Instances, Packet


def packet(stream: str = "a", seq: int = 0, **fields: object) -> Packet:
    return Packet(stream, seq, seq * 10_000_000, time.time_ns(), (64, 48), **fields)  # type: ignore[arg-type]


class Numbers(Source):
    """Gives as many packets as the uri says; with `1000@2`, one every 2 ms."""

    provides = ("image",)

    def read(self, stream: str, uri: str) -> Iterator[Packet]:
        count, _, wait_ms = uri.partition("@")
        for seq in range(int(count)):
            if wait_ms:
                time.sleep(float(wait_ms) / 1e3)
            yield packet(stream, seq)

    def frames_expected(self, uri: str) -> int | None:
        count = uri.partition("@")[0]
        return int(count) if count.isdigit() else None


class Logged(Source):
    """Gives one packet; writes every call and its process to the file that the uri names."""

    def check(self, uri: str) -> None:
        self.log("check", uri)

    def frames_expected(self, uri: str) -> int | None:
        self.log("expect", uri)
        return 1

    def read(self, stream: str, uri: str) -> Iterator[Packet]:
        self.log("read", uri)
        yield packet(stream)

    def log(self, call: str, uri: str) -> None:
        with Path(uri).open("a") as file:
            file.write(f"{call} {os.getpid()}\n")


class Script(Source):
    """Gives the items that the uri lists: `a3` is packet 3 of stream a, `a!` an event that resets, `a.` the end."""

    finished_packets: list[tuple[str, int]] = []  # noqa: RUF012 - shared on purpose: the test reads it

    def read(self, stream: str, uri: str) -> Iterator[Packet | Event | End]:
        for word in uri.split():
            name, what = word[0], word[1:]
            if what == "!":
                yield Event(name, "moved", time.time_ns(), resets=True)
            elif what == ".":
                yield End(name, 0)
            else:
                yield packet(name, int(what))

    def finished(self, packet: Packet) -> None:
        self.finished_packets.append((packet.stream, packet.seq))


class Diary(Operator):
    """Records every call in one list: `a3`, `reset a`, `a moved`, `a ends`."""

    per_stream = True
    entries: list[str] = []  # noqa: RUF012 - shared on purpose: the test reads it

    def process(self, packets: list[Packet]) -> list[Packet]:
        self.entries += [f"{p.stream}{p.seq}" for p in packets]
        return packets

    def reset(self, stream: str) -> None:
        self.entries.append(f"reset {stream}")

    def event(self, event: Event) -> None:
        self.entries.append(f"{event.stream} {event.kind}")

    def end_stream(self, stream: str) -> list[Packet]:
        self.entries.append(f"{stream} ends")
        return []


class Same(Operator):
    """Gives its packets on, after a random wait of up to `jitter_ms`."""

    def __init__(self, jitter_ms: float = 0):
        self.jitter_ms = jitter_ms

    def process(self, packets: list[Packet]) -> list[Packet]:
        if self.jitter_ms:
            time.sleep(random.uniform(0, self.jitter_ms) / 1e3)
        return packets


class SameByStream(Same):
    """The same, with state by stream; `seen` records which threads took each stream."""

    per_stream = True
    seen: dict[str, set[int]] = defaultdict(set)  # noqa: RUF012 - shared on purpose

    def process(self, packets: list[Packet]) -> list[Packet]:
        for p in packets:
            self.seen[p.stream].add(threading.get_ident())
        return super().process(packets)


class Slow(Operator):
    """Sleeps `ms` in each call."""

    def __init__(self, ms: float):
        self.ms = ms

    def process(self, packets: list[Packet]) -> list[Packet]:
        time.sleep(self.ms / 1e3)
        return packets


class Burn(Operator):
    """Computes for `ms` of processor time a packet."""

    def __init__(self, ms: float):
        self.ms = ms

    def process(self, packets: list[Packet]) -> list[Packet]:
        until = time.thread_time() + len(packets) * self.ms / 1e3
        while time.thread_time() < until:
            pass
        return packets


class FailAt(Operator):
    """Raises at one frame of every stream."""

    batch_max = 4
    per_stream = True

    def __init__(self, seq: int):
        self.seq = seq
        self.resets = 0

    def process(self, packets: list[Packet]) -> list[Packet]:
        if any(p.seq == self.seq for p in packets):
            raise ValueError(f"bad frame {self.seq}")
        return packets

    def reset(self, stream: str) -> None:
        self.count("resets")


class FailAside(Operator):
    """Raises at events and ends of streams, not at packets."""

    per_stream = True

    def process(self, packets: list[Packet]) -> list[Packet]:
        return packets

    def event(self, event: Event) -> None:
        raise SinkError("no room for events")

    def end_stream(self, stream: str) -> list[Packet]:
        raise SinkError("no room for the end")


class FailOpen(Operator):
    def open(self, run: object) -> None:
        raise OSError("no such device")


class Hold(Operator):
    """Holds each packet until the next one comes, the last until the end of its stream."""

    per_stream = True
    holds_packets = True

    def __init__(self) -> None:
        self.held: dict[str, Packet] = {}

    def process(self, packets: list[Packet]) -> list[Packet]:
        out = []
        for p in packets:
            if p.stream in self.held:
                out.append(self.held[p.stream])
            self.held[p.stream] = p
        return out

    def end_stream(self, stream: str) -> list[Packet]:
        return [self.held.pop(stream)] if stream in self.held else []


class Odd(Operator):
    """Gives packets of odd seq, and drops the others."""

    drop_reasons = ("even",)

    def process(self, packets: list[Packet]) -> list[Packet]:
        for p in packets:
            if p.seq % 2 == 0:
                self.drop(p, "even")
        return [p for p in packets if p.seq % 2]


class Faulty(Operator):
    """Does one thing wrong with frame `seq` of each stream: swallow, repeat, invent or swap it with the next."""

    per_stream = True
    drop_reasons = ("declared",)

    def __init__(self, do: str, seq: int = 5):
        self.do, self.seq = do, seq
        self.late: dict[str, Packet] = {}

    def process(self, packets: list[Packet]) -> list[Packet]:
        return [given for p in packets for given in self.one(p)]

    def one(self, p: Packet) -> list[Packet]:
        if self.do == "swap" and p.seq == self.seq:
            self.late[p.stream] = p
            return []
        if self.do == "swap" and p.seq == self.seq + 1:
            return [p, self.late.pop(p.stream)]
        if p.seq != self.seq:
            return [p]
        if self.do == "drop undeclared":
            self.drop(p, "bored")
        if self.do == "drop and fail":
            self.drop(p, "declared")
            raise ValueError("bad frame")
        return {"swallow": [], "repeat": [p, p], "invent": [p, p.replace(stream=f"ghost of {p.stream}")]}[
            self.do
        ]


class AddField(Operator):
    """Provides a field with the packet's seq in every row."""

    provides = ("scores",)

    def __init__(self, field: str = "scores", rows: int = 1):
        self.field, self.rows = field, rows

    def process(self, packets: list[Packet]) -> list[Packet]:
        import numpy as np

        return [
            p.replace(instances=Instances(**{self.field: np.full(self.rows, p.seq, np.float32)}))
            for p in packets
        ]


class NeedsScores(Operator):
    needs = ("scores",)

    def process(self, packets: list[Packet]) -> list[Packet]:
        return packets


class Collect(Operator):
    """Records its packets, and the streams that have ended, in the lists of its class."""

    packets: list[Packet] = []  # noqa: RUF012 - shared on purpose: the test reads it
    ended: list[str] = []  # noqa: RUF012

    def process(self, packets: list[Packet]) -> list[Packet]:
        self.packets += packets
        return packets

    def end_stream(self, stream: str) -> list[Packet]:
        self.ended.append(stream)
        return []


class Write(Operator):
    """A sink that writes the seq of every packet, and the end, to `dir/STREAM`, for other processes to read."""

    sink = True
    per_stream = True

    def __init__(self, dir: str):
        self.dir = Path(dir)

    def open(self, run: RunInfo) -> None:
        self.run = run

    def process(self, packets: list[Packet]) -> list[Packet]:
        for p in packets:
            self.write(p.stream, str(p.seq))
            self.count("written")
        return packets

    def end_stream(self, stream: str) -> list[Packet]:
        self.write(stream, f"end of {self.run.id} {self.run.started_ns} in {os.getpid()}")
        return []

    def write(self, stream: str, line: str) -> None:
        with (self.dir / stream).open("a") as file:
            file.write(f"{line}\n")


class TwoPartError(PipelineError):
    """An error that cannot be unpickled."""

    def __init__(self, first: str, second: str):
        super().__init__(f"{first} and {second}")


class At(Operator):
    """Does something at one frame of one stream."""

    per_stream = True

    def __init__(self, stream: str, seq: int, do: str):
        self.stream, self.seq, self.do = stream, seq, do

    def process(self, packets: list[Packet]) -> list[Packet]:
        if any((p.stream, p.seq) == (self.stream, self.seq) for p in packets):
            getattr(self, self.do)()
        return packets

    def fail(self) -> None:
        raise ValueError("bad frame")

    def refuse(self) -> None:
        raise SinkError("disk full")

    def fail_oddly(self) -> None:
        raise TwoPartError("this", "that")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self) -> None:
        os._exit(7)

    def warn(self) -> None:
        log = logging.getLogger("posestream.at")
        log.warning("%s is odd", self.stream)
        log.debug("no need to know")


class Across(Operator):
    """Works on all streams together."""

    across_streams = True

    def process(self, packets: list[Packet]) -> list[Packet]:
        return packets


REGISTRY = {
    "numbers": Numbers, "logged": Logged, "script": Script, "same": Same, "same_by_stream": SameByStream, "slow": Slow, "burn": Burn, "fail_at": FailAt,
    "fail_aside": FailAside,
    "fail_open": FailOpen, "hold": Hold, "odd": Odd, "add_field": AddField, "needs_scores": NeedsScores,
    "collect": Collect, "write": Write, "diary": Diary, "at": At, "across": Across, "faulty": Faulty,
}  # fmt: skip


def graph(source: str = "numbers", **nodes: dict[str, object]) -> Graph:
    """A graph of a source, these nodes and `collect`, in a chain unless a node says `after`."""
    Collect.packets.clear()
    Collect.ended.clear()
    SameByStream.seen.clear()
    Script.finished_packets.clear()
    Diary.entries.clear()
    spec: dict[str, dict[str, object]] = {source: {"op": source}}
    last = source
    for name, node in nodes.items():
        spec[name] = {"after": last, **node}
        last = name
    spec.setdefault("collect", {"op": "collect", "after": last})
    return check_graph({"name": "toy", "graph": spec}, REGISTRY)
