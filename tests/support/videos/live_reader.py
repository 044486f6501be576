"""Reads a source as in a live run, in a thread of its own, and waits for packets and events."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence

from operators.decode import Decode
from pipeline.operator import RunInfo
from pipeline.packet import Event, Packet
from tests.support.videos.rtsp_fixtures import FRAMES, number_of


def live_decode(**options: object) -> Decode:
    """A `decode` that was opened for a live run."""
    decode = Decode(**options)
    decode.open(RunInfo.new("test")._replace(live=True, cores=2))
    return decode


class LiveReader:
    """Reads a source until the `with` block ends. `items` has what it gave, `error` what it raised.

    With `keep=False` only events are kept, and packets are counted.
    """

    def __init__(self, uri: str, *, keep: bool = True, **options: object):
        self.decode = live_decode(**options)
        self.items: list[Packet | Event] = []
        self.packet_count = 0
        self._keep = keep
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._read, args=(uri,), daemon=True)

    def _read(self, uri: str) -> None:
        try:
            for item in self.decode.read("yard", uri):
                self.packet_count += isinstance(item, Packet)
                if self._keep or isinstance(item, Event):
                    self.items.append(item)
        except Exception as error:
            self.error = error

    def __enter__(self) -> LiveReader:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.decode.stop()
        self.thread.join(5)
        assert not self.thread.is_alive(), "stop() did not end it"

    @property
    def packets(self) -> list[Packet]:
        return [item for item in list(self.items) if isinstance(item, Packet)]

    @property
    def events(self) -> list[Event]:
        return [item for item in list(self.items) if isinstance(item, Event)]

    def event_kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def wait_for_packets(self, n: int) -> None:
        """Wait for n more packets."""
        wanted = self.packet_count + n
        until(lambda: self.packet_count >= wanted, f"{n} packets", self)

    def wait_for_events(self, *kinds: str) -> Event:
        """Wait until all events so far are of exactly these kinds, in this order. Returns the last one."""
        until(lambda: self.event_kinds() == list(kinds), f"events {kinds}", self)
        return self.events[-1]


def until(
    condition: Callable[[], object], what: str, reader: LiveReader | None = None, within_s: float = 30
) -> None:
    """Wait for a condition; fail with `what` was missing, and with what `reader` has given."""
    deadline = time.monotonic() + within_s
    while not condition():
        found = f"; {reader.packet_count} packets, {reader.events}, {reader.error!r}" if reader else ""
        assert time.monotonic() < deadline, f"no {what} within {within_s} s{found}"
        time.sleep(0.01)


def camera_threads() -> list[str]:
    """The threads of connections to cameras that have not ended."""
    return [thread.name for thread in threading.enumerate() if thread.name.endswith("-camera")]


def without_gaps(packets: Sequence[Packet]) -> bool:
    """Whether no frame of the looped clip is missing between these packets."""
    numbers = [number_of(packet.image) for packet in packets]
    return all(b == (a + 1) % FRAMES for a, b in itertools.pairwise(numbers))
