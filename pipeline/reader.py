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

EVENTS_KEPT = 100  # for whoever asks what happened to a source


class Numbers(NamedTuple):
    """With which the packets of a source begin."""

    seq: int
    epoch: int


class Reader:
    """Reads one source until it ends or is stopped; every stream that has begun then ends.

    `first_seq` is not 0 where a source of this name was read before in this run: its numbers go on, and it
    begins a new epoch, since nothing is known of what was before.
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
        self.lost = False  # gives nothing for now
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
        """Go on with the numbers of a reader that had this name before, of which nothing else is known."""
        self.first_seq, self.first_epoch = numbers

    def go_on_from(self, before: Reader) -> None:
        """Go on from the reader that had this name before: its numbers and what it counted only ever grow."""
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
        """Whether it was at work, and will not be again."""
        return self._thread is not None and not self._thread.is_alive()

    @property
    def streams(self) -> list[str]:
        """Those it has given packets of; before the first, and as a rule, the one of its own name."""
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
                self._take_in(item)
                metrics.blocked_ns += time.monotonic_ns() - now
                if tracer:
                    tracer.handed_on(self._stage, self.stream, now)
                del item  # else its picture would stay in memory until the next has come
                if self._stopped.is_set():
                    break
                start, cpu_start = self._enter()
        except Exception as error:
            self._failed(self, error)
        finally:
            # One that has given nothing at all has ended, too.
            for stream in sorted(self._open) or ([] if self.packets else [self.stream]):
                self._take_in(End(stream, self.packets[stream]))
            self.operator.close()
            self._ended()

    def _enter(self) -> tuple[int, int]:
        """Monotonic and processor time at which the source is asked for its next item."""
        if self._tracer:
            self._tracer.enter(self._stage, self.stream)
        return time.monotonic_ns(), time.thread_time_ns()

    def _take_in(self, item: Item) -> None:
        """Send what the source gave into the graph."""
        if isinstance(item, Packet):
            self.packets[item.stream] += 1
            self._open.add(item.stream)
            if self.first_seq and not item.run:  # another run's packets keep the numbers they have
                item = item.replace(seq=item.seq + self.first_seq, epoch=item.epoch + self.first_epoch)
        elif isinstance(item, Event):
            self.events.append(item)
            self.lost = item.kind == "lost"
        else:
            self._open.discard(item.stream)
        items = [item]
        self.book.begin(0, [(0, item)])  # a source takes what it gives
        for edge in self._edges:
            edge.put(items)
        self.book.settle(0, items)
