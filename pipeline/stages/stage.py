"""A stage: the workers of one node, their threads, and the order of their results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence

from pipeline.edges.edge import Edge
from pipeline.edges.inbox import Inbox
from pipeline.errors import PosestreamError, RunError
from pipeline.measurement.ledger import Book
from pipeline.measurement.stage_stats import StageStats
from pipeline.measurement.tracing import Tracer
from pipeline.node import Batching, OnError
from pipeline.operator import Operator, RunInfo
from pipeline.packet import Item
from pipeline.stages.outlet import Outlet
from pipeline.stages.set_aside import SetAsideLog, explains_itself, message_of
from pipeline.stages.worker import Dropped, Worker

Results = tuple[Book, Sequence[Item], Dropped]  # of one call, and the book in which it is settled


class Stage:
    """Runs the operators of one node, a thread each, until all of their inputs are closed.

    With one inbox all workers share it and any of them takes the next batch; with an inbox for each worker,
    every worker has its own streams. `finished` is called with the items that leave the graph here, `failed`
    with an error that must end the run.
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
        self.inboxes = list(inboxes)
        self._edges = list(edges)
        self._batching = batching
        self._finished, self._failed, self._tracer = finished, failed, tracer
        self._log = SetAsideLog(name)
        self._workers = [
            Worker(
                name,
                number,
                operator,
                on_error=on_error,
                failed=self._fail,
                log=self._log,
                tracer=tracer,
            )
            for number, operator in enumerate(operators)
        ]
        self._running = len(self._workers)
        self._lock = threading.Lock()
        self.opened = threading.Barrier(len(self._workers) + 1)
        self._books = [Book(holds=operators[0].holds_packets) for _ in self.inboxes]
        shared = len(self.inboxes) < len(self._workers)
        self._outlet = Outlet(self._send, ahead=4 * len(self._workers)) if shared else None
        self.threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"{name}-{worker.number}", daemon=True)
            for worker in self._workers
        ]

    @property
    def operators(self) -> list[Operator]:
        """The operators, one for each worker."""
        return [worker.operator for worker in self._workers]

    def start(self, run: RunInfo) -> None:
        """Start the workers. `opened` is a barrier that they pass once every operator is open."""
        self._run = run
        for thread in self.threads:
            thread.start()

    def stats(self, run_ns: int) -> StageStats:
        """Take a snapshot of what this stage has done since reading began, `run_ns` ago."""
        return StageStats.of(
            self.name,
            run_ns,
            [worker.metrics for worker in self._workers],
            [book.snapshot() for book in self._books],
            [operator.counters for operator in self.operators],
        )

    def forget(self, streams: Collection[str]) -> None:
        """Keep only the sums of these streams, which have ended."""
        for inbox in self.inboxes:
            inbox.forget(streams)
        for book in self._books:
            book.forget(streams)

    def _work(self, worker: Worker) -> None:
        opened = self._open(worker.operator)
        self.opened.wait()
        try:
            self._process_all(worker)
        except Exception as error:  # an error in the runtime itself must end the run, not block it
            self._fail(error, "inside the runtime")
            self._place_of(worker)[0].abort()
            if self._outlet:
                self._outlet.give_up()
        if opened:
            self._close(worker.operator)
        with self._lock:
            self._running -= 1
            last = self._running == 0
        if last:
            for book in self._books:
                book.close()
            for edge in self._edges:
                edge.close()

    def _place_of(self, worker: Worker) -> tuple[Inbox, Book]:
        index = worker.number % len(self.inboxes)
        return self.inboxes[index], self._books[index]

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

    def _process_all(self, worker: Worker) -> None:
        inbox, book = self._place_of(worker)
        wait_s = self._batching.wait_ms / 1e3
        metrics, tracer = worker.metrics, self._tracer
        while (taken := inbox.take(self._batching.max, wait_s)) is not None:
            ticket, batch = taken
            book.begin(ticket, batch)
            items, dropped = worker.run_batch(batch)
            done = time.monotonic_ns()
            if self._outlet:
                self._outlet.send(ticket, (book, items, dropped))
            else:
                self._send(ticket, (book, items, dropped))
            metrics.blocked_ns += time.monotonic_ns() - done
            if tracer:
                tracer.handed_on(self.name, worker.number, done)
            del taken, batch, items  # else their pictures would stay in memory until the next batch

    def _send(self, ticket: int, results: Results) -> None:
        book, items, dropped = results
        if items:
            for edge in self._edges:
                edge.put(items)
        book.settle(ticket, items, dropped)
        if items and not self._edges:
            self._finished(items)

    def _fail(self, error: Exception, when: str) -> None:
        for worker in self._workers:
            worker.discarding = True
        if not explains_itself(error):
            self._log.logger.debug("failed %s", when, exc_info=error)
        if isinstance(error, PosestreamError):
            self._failed(error)
            return
        failure = RunError(f"{self.name} failed {when}: {message_of(error)}")
        failure.__cause__ = error
        self._failed(failure)
