"""A worker of a stage: calls its operator with batches, times the calls and handles its errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pipeline.edges.join import merge
from pipeline.measurement.metrics import WorkerMetrics
from pipeline.measurement.tracing import Span, Tracer
from pipeline.node import OnError
from pipeline.operator import Operator
from pipeline.packet import End, Event, Item, Packet, Taken
from pipeline.stages.set_aside import SetAsideLog, message_of

Failed = Callable[[Exception, str], None]  # the error, and when it happened: "at a frame 3"
Dropped = list[tuple[str, str]]  # (stream, reason) of each packet


class Worker:
    """One operator at work; only its own thread calls it."""

    def __init__(
        self,
        stage: str,
        number: int,
        operator: Operator,
        *,
        on_error: OnError,
        failed: Failed,
        log: SetAsideLog,
        tracer: Tracer | None,
    ):
        self.stage, self.number, self.operator = stage, number, operator
        self.metrics = WorkerMetrics()
        self._dropped: Dropped = []  # in the present call
        self.discarding = False  # the run has failed: drop all packets that still come
        self._on_error, self._failed, self._log, self._tracer = on_error, failed, log, tracer

    def run_batch(self, batch: list[Taken]) -> tuple[list[Item], Dropped]:
        """Process the packets of a batch; events and ends keep their places between them.

        Returns:
            The results, and what was dropped.
        """
        self._dropped = []
        results: list[Item] = []
        packets: list[Packet] = []
        metrics, tracer = self.metrics, self._tracer
        if tracer:
            tracer.enter(self.stage, self.number)
        start, cpu_start = time.monotonic_ns(), time.thread_time_ns()
        for queued_ns, item in batch:
            metrics.wait.record(start - queued_ns)
            if isinstance(item, Packet):
                packets.append(item)
            elif isinstance(item, tuple):
                packets += self._merge(item)
            else:
                results += self._process(packets)
                results += self._pass_on(item)
                packets = []
        results += self._process(packets)
        now, cpu_ns = time.monotonic_ns(), time.thread_time_ns() - cpu_start
        metrics.busy_ns += now - start
        metrics.cpu_ns += cpu_ns
        for queued_ns, _ in batch:
            metrics.latency.record(now - queued_ns)
        if tracer:
            tracer.left(Span(self.stage, self.number, start, now, cpu_ns, batch, results))
        if dropped := self.operator.take_dropped():
            self._dropped += [(packet.stream, reason) for packet, reason in dropped]
        return results, self._dropped

    def _process(self, packets: list[Packet]) -> Sequence[Item]:
        if not packets:
            return ()
        if self.discarding:
            self._drop(packets, "failed")
            return ()
        self.metrics.batches[len(packets)] += 1
        try:
            results = list(self.operator.process(packets))
        except Exception as error:
            return self._after_error(packets, error)
        if self._log.failing:
            self._log.note_success(packets)
        return results

    def _after_error(self, packets: list[Packet], error: Exception) -> list[Item]:
        """A call has raised: end the run, or find the packet that did it and set only that one aside."""
        self._forget_drops(packets)
        if len(packets) == 1 or self._on_error == "fail":
            self._drop(packets, "error" if self._on_error == "skip" else "failed")
            if self._on_error == "skip":
                self._log.note_error(packets[0], error)
            else:
                where = f"{packets[0].stream} frame {packets[0].seq}"
                more = f" (or one of the next {len(packets) - 1} packets)" if len(packets) > 1 else ""
                self._failed(error, f"at {where}{more}")
            return []
        # The failed call may have half-updated the operator's state: reset it before retrying the packets one
        # by one.
        for stream in {packet.stream for packet in packets}:
            self.operator.reset(stream)
        results: list[Item] = []
        for packet in packets:
            try:
                results += list(self.operator.process([packet]))  # all or nothing, if it is a generator
            except Exception as single:
                self._after_error([packet], single)
            else:
                self._log.note_success([packet])
        return results

    def _merge(self, parts: tuple[Packet, ...]) -> list[Packet]:
        try:
            return [merge(parts)]
        except ValueError as error:
            self._drop(parts[:1], "error")
            if self._on_error == "skip":
                self._log.logger.error("set aside: %s", error)
            else:
                self._failed(error, "at its inputs")
            return []

    def _pass_on(self, item: Event | End) -> Sequence[Item]:
        try:
            results = list(self.operator.pass_on(item))
        except Exception as error:
            what = f"an event ({item.kind})" if isinstance(item, Event) else "the end"
            if self._on_error == "fail":
                self._failed(error, f"at {what} of {item.stream}")
            else:
                self._log.logger.error("at %s of %s: %s", what, item.stream, message_of(error))
            return [item]
        return results

    def _drop(self, packets: Sequence[Packet], reason: str) -> None:
        self._dropped += [(packet.stream, reason) for packet in packets]

    def _forget_drops(self, packets: Sequence[Packet]) -> None:
        """The call has failed: its packets are retried or set aside, even those that it has dropped."""
        failed = {(packet.stream, packet.seq) for packet in packets}
        self._dropped += [
            (packet.stream, reason)
            for packet, reason in self.operator.take_dropped()
            if (packet.stream, packet.seq) not in failed
        ]
