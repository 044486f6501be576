"""What a run reports to a tracer, and how stages measure their time."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import toys

from pipeline.make_run import make_run
from pipeline.measurement.tracing import Span, Tracer
from pipeline.operator import RunInfo
from pipeline.packet import Item, Packet
from pipeline.run import Run


class Reports(Tracer):
    """Writes down every report, in a file for each process."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.spans: list[Span] = []
        self.reports: list[tuple[str, ...]] = []

    def begin(self, run: RunInfo) -> None:
        self.reports.append(("begin", run.id))

    def opened(self, stage: str) -> None:
        self.reports.append(("opened", stage))

    def enter(self, stage: str, worker: int | str) -> None:
        self.reports.append(("enter", stage, str(worker)))

    def left(self, span: Span) -> None:
        self.reports.append(("left", span.stage, str(span.worker)))
        self.spans.append(span)

    def handed_on(self, stage: str, worker: int | str, since_ns: int) -> None:
        self.reports.append(("handed on", stage, str(worker)))

    def finished(self, stage: str, items: Sequence[Item]) -> None:
        packets = [item for item in items if isinstance(item, Packet)]
        self.reports += [("finished", stage, f"{packet.stream}{packet.seq}") for packet in packets]

    def end(self) -> None:
        self.reports.append(("end",))
        (self.folder / f"{os.getpid()}.json").write_text(json.dumps(self.reports))


def traced(
    tmp_path: Path, sources: dict[str, str], processes: int = 1, **nodes: dict[str, object]
) -> Reports:
    tracer = Reports(tmp_path)
    run = make_run(toys.graph(**nodes), sources, processes=processes, tracer=tracer)
    run.start()
    run.finish()
    return tracer


def test_each_frame_is_reported_at_every_stage_and_at_the_end(tmp_path):
    work = {"a": {"op": "same", "workers": 2}, "b": {"op": "add_field"}}
    tracer = traced(tmp_path, {"s": "20", "t": "10"}, **work)
    for stage in ("numbers", "a", "b"):
        results = [i for span in tracer.spans if span.stage == stage for i in span.results]
        seen = Counter(packet.stream for packet in results if isinstance(packet, Packet))
        assert seen == {"s": 20, "t": 10}, stage
    finished = [report[2] for report in tracer.reports if report[0] == "finished"]
    assert len(set(finished)) == len(finished) == 30
    for span in tracer.spans:
        assert span.start_ns <= span.end_ns
        assert all(queued_ns <= span.start_ns for queued_ns, _ in span.taken)


def test_a_run_opens_stage_by_stage_and_ends_once(tmp_path):
    tracer = traced(tmp_path, {"s": "5"}, a={"op": "same"}, b={"op": "same"})
    assert [report[0] for report in tracer.reports[:4]] == ["begin", "opened", "opened", "opened"]
    assert {report[1] for report in tracer.reports[1:4]} == {"a", "b", "collect"}
    assert [report[0] for report in tracer.reports].count("end") == 1
    assert tracer.reports[-1] == ("end",)


def test_enter_and_left_alternate_in_every_worker(tmp_path):
    tracer = traced(tmp_path, {"s": "40", "t": "40"}, a={"op": "same", "workers": 3})
    workers = {report[1:] for report in tracer.reports if report[0] in ("enter", "left")}
    for worker in workers:
        calls = [
            report[0] for report in tracer.reports if report[1:] == worker and report[0] in ("enter", "left")
        ]
        if worker[0] == "numbers":  # the last call finds that the source has ended
            assert calls.pop() == "enter"
        assert calls == ["enter", "left"] * (len(calls) // 2)


def test_each_process_has_a_tracer_of_its_own(tmp_path):
    traced(tmp_path, {"s": "20", "t": "10"}, processes=2, a={"op": "same"})
    written = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    streams = [{report[2][0] for report in reports if report[0] == "finished"} for reports in written]
    assert sorted(streams, key=str) == [{"s"}, {"t"}]


def test_computing_and_waiting_of_a_stage_are_told_apart():
    graph = toys.graph(burn={"op": "burn", "ms": 20}, slow={"op": "slow", "ms": 20})
    run = Run(graph, {"s": "30"})
    run.start()
    stages = {stage.name: stage for stage in run.finish().stages}
    burn, slow = stages["burn"], stages["slow"]
    assert burn.cpu * run.stats().seconds >= 0.9 * 30 * 0.020
    assert slow.cpu < 0.2 * slow.busy
    assert stages["numbers"].blocked > stages["numbers"].busy  # it waits for room behind it


def test_the_difference_of_two_snapshots_covers_the_time_between_them():
    run = Run(toys.graph(a={"op": "same"}), {"s": "100000@1"})
    run.start()
    deadline = time.monotonic() + 30
    while run.stats().finished < 50:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = run.stats()
    while (after := run.stats()).finished < before.finished + 100:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.stop()
    run.finish()
    window = after.since(before)
    assert window.finished == after.finished - before.finished >= 100
    assert window.seconds < after.seconds
    stage = window.stages[1]
    assert stage.packets_in == sum(size * n for size, n in stage.batches.items())
    assert after.stages[1].packets_in == before.stages[1].packets_in + stage.packets_in
