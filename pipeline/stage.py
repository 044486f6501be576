"""A stage: an operator at work. Its workers' threads, its batches, its errors and its order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.edges.edge import Edge, Inbox, Item, Taken
from pipeline.edges.join import merge
from pipeline.errors import PosestreamError, RunError
from pipeline.measurement.metrics import WorkerMetrics, forget_losses
from pipeline.measurement.stats import StageStats
from pipeline.measurement.tracing import Span, Tracer
from pipeline.operator import Operator, RunInfo
from pipeline.packet import End, Event, Packet

OnError = Literal["fail", "skip"]


@dataclass(frozen=True)
class Batching:
    """How many packets a call takes, and how long it waits for them."""

    max: int = 1
    wait_ms: float = 0.0


class Outlet:
    """Sends a stage's results on, in the order of their tickets: any worker may finish first."""

    def __init__(self, send: Callable[[Sequence[Item]], None], ahead: int):
        self._send = send
        self._ahead = ahead  # results that may wait for an earlier one, so that memory stays bounded
        self._turn = threading.Condition()
        self._next = 0
        self._waiting: dict[int, Sequence[Item]] = {}
        self._broken = False

    def send(self, ticket: int, items: Sequence[Item]) -> None:
        """Send the results of batch `ticket` once those of all earlier ones are sent."""
        with self._turn:
            while ticket > self._next + self._ahead and not self._broken:
                self._turn.wait()
            self._waiting[ticket] = items
            while (ready := self._waiting.pop(self._next, None)) is not None:
                if ready:
                    self._send(ready)
                self._next += 1
            self._turn.notify_all()

    def give_up(self) -> None:
        """A worker is gone, and its tickets with it: nobody shall wait for them."""
        with self._turn:
            self._broken = True
            self._turn.notify_all()


class Stage:
    """Runs the operators of one node until all of their inputs are closed.

    `operators` has one operator a worker. With one inbox all workers share it and any takes the next
    batch; with an inbox a worker, each works on the streams that are sent there.
    """

    def __init__(
        self,
        name: str,
        operators: Sequence[Operator],
        inboxes: Sequence[Inbox],
        edges: Sequence[Edge],
        *,
        batching: Batching,
        on_error: OnError,
        finished: Callable[[Sequence[Item]], None],
        failed: Callable[[PosestreamError], None],
        tracer: Tracer | None = None,
    ):
        self.name = name
        self.operators = list(operators)
        self.inboxes = list(inboxes)
        self.edges = list(edges)
        self.batching = batching
        self.on_error = on_error
        self.metrics = [WorkerMetrics() for _ in operators]
        self._finished = finished  # told what leaves the graph here
        self._failed = failed
        self._tracer = tracer
        self._discarding = False  # after a failure: inputs are emptied, nothing more is made of them
        self._log = logging.getLogger(f"posestream.{name}")
        self._running = len(operators)
        self._troubles: dict[str, tuple[str, int]] = {}  # stream: kind of error, packets set aside in a row
        self._lock = threading.Lock()
        self.opened = threading.Barrier(len(operators) + 1)
        shared = len(self.inboxes) < len(self.operators)
        self._outlet = Outlet(self._send, ahead=4 * len(operators)) if shared else None
        self.threads = [
            threading.Thread(target=self._work, args=(i,), name=f"{name}-{i}", daemon=True)
            for i in range(len(operators))
        ]

    def start(self, run: RunInfo) -> None:
        """Start the workers. `opened` is a barrier behind which every operator is open."""
        self._run = run
        for thread in self.threads:
            thread.start()

    def stats(self, run_ns: int) -> StageStats:
        """Take a snapshot of what this stage has done since reading began, `run_ns` ago."""
        return StageStats.of(
            self.name, run_ns, self.metrics, [operator.counters for operator in self.operators]
        )

    def forget(self, streams: Collection[str]) -> None:
        """These streams have ended long ago; what was lost of them is no longer told by stream."""
        for inbox in self.inboxes:
            inbox.forget(streams)
        for metrics in self.metrics:  # their own threads count other streams meanwhile
            forget_losses(metrics.dropped, streams)

    def _work(self, worker: int) -> None:
        operator = self.operators[worker]
        inbox = self.inboxes[worker % len(self.inboxes)]
        opened = self._open(operator)
        self.opened.wait()
        try:
            self._work_through(inbox, operator, worker)
        except Exception as error:  # an error of the runtime itself must end the run, not hang it
            self._fail(error, "inside the runtime")
            inbox.abort()
            if self._outlet:
                self._outlet.give_up()
        if opened:
            self._close(operator)
        with self._lock:
            self._running -= 1
            last = self._running == 0
        if last:
            for edge in self.edges:
                edge.close()

    def _work_through(self, inbox: Inbox, operator: Operator, worker: int) -> None:
        wait_s = self.batching.wait_ms / 1e3
        metrics, tracer = self.metrics[worker], self._tracer
        while (taken := inbox.take(self.batching.max, wait_s)) is not None:
            ticket, batch = taken
            results = self._run_batch(operator, worker, batch)
            done = time.monotonic_ns()
            if self._outlet:
                self._outlet.send(ticket, results)
            elif results:
                self._send(results)
            metrics.blocked_ns += time.monotonic_ns() - done
            if tracer:
                tracer.handed_on(self.name, worker, done)
            del taken, batch, results  # else their pictures would stay in memory until more has come

    def _open(self, operator: Operator) -> bool:
        try:
            operator.open(self._run)
        except Exception as error:
            self._fail(error, "while it was being opened")
            return False
        return True

    def _close(self, operator: Operator) -> None:
        try:
            operator.close()
        except Exception as error:
            self._fail(error, "while it was being closed")

    def _run_batch(self, operator: Operator, worker: int, batch: list[Taken]) -> list[Item]:
        """Process a batch in runs of packets; events and ends stay in their places between them."""
        results: list[Item] = []
        packets: list[Packet] = []
        metrics, tracer = self.metrics[worker], self._tracer
        if tracer:
            tracer.enter(self.name, worker)
        start, cpu_start = time.monotonic_ns(), time.thread_time_ns()
        for queued_ns, item in batch:
            metrics.wait.record(start - queued_ns)
            if isinstance(item, Event | End):
                results += self._process(operator, metrics, packets)
                results += self._pass_on(operator, metrics, item)
                packets = []
            elif isinstance(item, tuple):
                packets += self._merge(metrics, item)
            else:
                packets.append(item)
        results += self._process(operator, metrics, packets)
        now, cpu_ns = time.monotonic_ns(), time.thread_time_ns() - cpu_start
        metrics.busy_ns += now - start
        metrics.cpu_ns += cpu_ns
        for queued_ns, _ in batch:
            metrics.latency.record(now - queued_ns)
        if tracer:
            tracer.left(Span(self.name, worker, start, now, cpu_ns, batch, results))
        return results

    def _process(self, operator: Operator, metrics: WorkerMetrics, packets: list[Packet]) -> Sequence[Item]:
        if not packets:
            return ()
        metrics.packets_in += len(packets)
        if self._discarding:
            metrics.dropped.update((packet.stream, "failed") for packet in packets)
            return ()
        metrics.batches[len(packets)] += 1
        try:
            results = list(operator.process(packets))
        except Exception as error:
            return self._rescue(operator, metrics, packets, error)
        metrics.packets_out += _packets(results)
        if self._troubles:
            self._note_recovery(packets)
        return results

    def _rescue(
        self, operator: Operator, metrics: WorkerMetrics, packets: list[Packet], error: Exception
    ) -> list[Item]:
        """A batch has raised: find the packet that did it, set it aside or end the run, keep the others."""
        if len(packets) == 1 or self.on_error == "fail":
            where = f"{packets[0].stream} frame {packets[0].seq}"
            more = f" (or one of {len(packets) - 1} packets behind it)" if len(packets) > 1 else ""
            reason = "error" if self.on_error == "skip" else "failed"
            metrics.dropped.update((packet.stream, reason) for packet in packets)
            if self.on_error == "skip":
                self._note_trouble(packets[0], error)
            else:
                self._fail(error, f"at {where}{more}")
            return []
        # What the batch has already changed in the operator's memory is not known, so it starts afresh.
        for stream in {packet.stream for packet in packets}:
            operator.reset(stream)
        results: list[Item] = []
        for packet in packets:
            try:
                results += operator.process([packet])
            except Exception as single:
                self._rescue(operator, metrics, [packet], single)
            else:
                self._note_recovery([packet])
        metrics.packets_out += _packets(results)
        return results

    def _note_trouble(self, packet: Packet, error: Exception) -> None:
        """Log the first of a stream's packets that are set aside one behind the other, and count the rest."""
        kind = type(error).__name__
        with self._lock:
            before, count = self._troubles.get(packet.stream, ("", 0))
            self._troubles[packet.stream] = kind, count + 1
        if before != kind:
            where = f"{packet.stream} frame {packet.seq}"
            self._log.error("set aside %s: %s", where, _say(error), exc_info=not _is_ours(error))

    def _note_recovery(self, packets: Sequence[Packet]) -> None:
        for stream in {packet.stream for packet in packets}:
            with self._lock:
                _, count = self._troubles.pop(stream, ("", 0))
            if count > 1:
                self._log.warning("%s goes on; %d frames were set aside", stream, count)

    def _merge(self, metrics: WorkerMetrics, parts: tuple[Packet, ...]) -> list[Packet]:
        try:
            return [merge(parts)]
        except ValueError as error:
            metrics.dropped[parts[0].stream, "error"] += 1
            if self.on_error == "skip":
                self._log.error("set aside: %s", error)
            else:
                self._fail(error, "at its inputs")
            return []

    def _pass_on(self, operator: Operator, metrics: WorkerMetrics, item: Event | End) -> Sequence[Item]:
        try:
            results = list(operator.pass_on(item))
        except Exception as error:
            what = f"an event ({item.kind})" if isinstance(item, Event) else "the end"
            if self.on_error == "fail":
                self._fail(error, f"at {what} of {item.stream}")
            else:
                self._log.error("at %s of %s: %s", what, item.stream, _say(error))
            return [item]
        metrics.packets_out += _packets(results)
        return results

    def _send(self, items: Sequence[Item]) -> None:
        for edge in self.edges:
            edge.put(items)
        if not self.edges:
            self._finished(items)

    def _fail(self, error: Exception, when: str) -> None:
        self._discarding = True
        if not _is_ours(error):
            self._log.debug("failed %s", when, exc_info=error)
        if isinstance(error, PosestreamError):
            self._failed(error)
            return
        failure = RunError(f"{self.name} failed {when}: {_say(error)}")
        failure.__cause__ = error
        self._failed(failure)


def _is_ours(error: Exception) -> bool:
    """Whether the message says all there is to say, so that a traceback would only hide it."""
    return isinstance(error, PosestreamError)


def _packets(items: Sequence[Item]) -> int:
    return sum(isinstance(item, Packet) for item in items)


def _say(error: Exception) -> str:
    return str(error) if _is_ours(error) else f"{type(error).__name__}: {error}"
