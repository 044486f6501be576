"""A reader: one source of a run, and the thread that reads it into the graph."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.edges.edge import Edge
from pipeline.edges.pace import Paced
from pipeline.measurement.ledger import Book
from pipeline.measurement.metrics import WorkerMetrics
from pipeline.measurement.tracing import Span, Tracer
from pipeline.operator import RunInfo, Source
from pipeline.packet import End, Event, Item, Packet

EVENTS_KEPT = 100  # the newest events of a source, for the control API


class Numbers(NamedTuple):
    """The numbers with which the packets of a source begin."""

    seq: int
    epoch: int


class Reader:
    """Reads one source until it ends or is stopped, then ends all of its streams.

    If the run has read a source of this name before, the numbers go on from there (`first_seq`) and a new
    epoch begins, since nobody knows what happened in between.
    """

    def __init__(
        self,
        stream: str,
        uri: str,
        operator: Source,
        expected: int | None,
        edges: Sequence[Edge | Paced],
        *,
        failed: Callable[[Reader, Exception], None],
        ended: Callable[[], None],
        stage: str = "",
        tracer: Tracer | None = None,
    ):
        self.stream, self.uri, self.operator, self.expected = stream, uri, operator, expected
        self.first_seq = self.first_epoch = 0
        self.read_before = 0  # packets, of its own stream
        self.metrics = WorkerMetrics()
        self.book = Book()
        self.packets: Counter[str] = Counter()  # stream: packets; one stream as a rule
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.lost = False  # gives nothing at the moment
        self._edges = edges
        self._failed, self._ended = failed, ended
        self._stage, self._tracer = stage, tracer
        self._open: set[str] = set()  # streams that have begun and not ended
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def next(self) -> Numbers:
        """Where the next reader of this name goes on."""
        return Numbers(self.first_seq + self.packets[self.stream], self.first_epoch + 1)

    def go_on_at(self, numbers: Numbers) -> None:
        """Go on with the numbers of a forgotten reader of this name."""
        self.first_seq, self.first_epoch = numbers

    def go_on_from(self, before: Reader) -> None:
        """Go on from the last reader of this name, so that its numbers and counts never fall."""
        self.go_on_at(before.next)
        self.read_before = before.read_before + before.packets[self.stream]
        self.metrics, self.book = before.metrics, before.book
        self.events.extend(before.events)
        self.operator.counters.update(before.operator.counters)

    def start(self, info: RunInfo) -> None:
        """Begin to read."""
        self._thread = threading.Thread(target=self._read, args=(info,), name=self.stream, daemon=True)
        self._thread.start()

    @property
    def reading(self) -> bool:
        """Whether it is at work."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def over(self) -> bool:
        """Whether it has finished its work."""
        return self._thread is not None and not self._thread.is_alive()

    @property
    def streams(self) -> list[str]:
        """The streams of its packets; before the first packet, the stream of its own name."""
        return sorted(self.packets) or [self.stream]

    def stop(self) -> None:
        """Read no more; what was read is finished."""
        self._stopped.set()
        self.operator.stop()

    def _read(self, info: RunInfo) -> None:
        metrics, tracer = self.metrics, self._tracer
        try:
            self.operator.open(info)
            start, cpu_start = self._enter()
            for item in self.operator.read(self.stream, self.uri):
                now, cpu_ns = time.monotonic_ns(), time.thread_time_ns() - cpu_start
                if isinstance(item, Packet):
                    metrics.busy_ns += now - start
                    metrics.cpu_ns += cpu_ns
                    metrics.latency.record(now - start)
                if tracer:
                    tracer.left(Span(self._stage, self.stream, start, now, cpu_ns, (), (item,)))
                self._note_dropped()
                self._take_in(item)
                metrics.blocked_ns += time.monotonic_ns() - now
                if tracer:
                    tracer.handed_on(self._stage, self.stream, now)
                del item  # else its picture would stay in memory until the next item comes
                if self._stopped.is_set():
                    break
                start, cpu_start = self._enter()
        except Exception as error:
            self._failed(self, error)
        finally:
            self._note_dropped()
            # A source that has given nothing still ends its stream.
            for stream in sorted(self._open) or ([] if self.packets else [self.stream]):
                self._take_in(End(stream, self.packets[stream]))
            self.operator.close()
            self._ended()

    def _enter(self) -> tuple[int, int]:
        """Note that the source is asked for its next item; the monotonic and the processor time."""
        if self._tracer:
            self._tracer.enter(self._stage, self.stream)
        return time.monotonic_ns(), time.thread_time_ns()

    def _note_dropped(self) -> None:
        """Count the packets that the source itself has dropped."""
        for packet, reason in self.operator.take_dropped():
            self.packets[packet.stream] += 1
            self._open.add(packet.stream)
            self.book.begin(0, [(0, packet)])
            self.book.settle(0, (), [(packet.stream, reason)])

    def _take_in(self, item: Item) -> None:
        """Send an item of the source into the graph."""
        if isinstance(item, Packet):
            self.packets[item.stream] += 1
            self._open.add(item.stream)
            if self.first_seq and not item.run:  # packets of another run keep their numbers
                item = item.replace(seq=item.seq + self.first_seq, epoch=item.epoch + self.first_epoch)
        elif isinstance(item, Event):
            self.events.append(item)
            self.lost = item.kind == "lost"
        else:
            self._open.discard(item.stream)
        items = [item]
        self.book.begin(0, [(0, item)])  # in its ledger, a source takes what it gives
        for edge in self._edges:
            edge.put(items)
        self.book.settle(0, items)
