"""What a tracer hears of a run, and what stages say of their time."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import toys

from pipeline.measurement.tracing import Span, Tracer
from pipeline.operator import RunInfo
from pipeline.packet import Item, Packet
from pipeline.run import Run, make_run


class Diary(Tracer):
    """Writes down all that it hears, a file a process."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.spans: list[Span] = []
        self.heard: list[tuple[str, ...]] = []

    def begin(self, run: RunInfo) -> None:
        self.heard.append(("begin", run.id))

    def opened(self, stage: str) -> None:
        self.heard.append(("opened", stage))

    def enter(self, stage: str, worker: int | str) -> None:
        self.heard.append(("enter", stage, str(worker)))

    def left(self, span: Span) -> None:
        self.heard.append(("left", span.stage, str(span.worker)))
        self.spans.append(span)

    def handed_on(self, stage: str, worker: int | str, since_ns: int) -> None:
        self.heard.append(("handed on", stage, str(worker)))

    def finished(self, stage: str, items: Sequence[Item]) -> None:
        packets = [item for item in items if isinstance(item, Packet)]
        self.heard += [("finished", stage, f"{packet.stream}{packet.seq}") for packet in packets]

    def end(self) -> None:
        self.heard.append(("end",))
        (self.folder / f"{os.getpid()}.json").write_text(json.dumps(self.heard))


def traced(tmp_path: Path, sources: dict[str, str], processes: int = 1, **nodes: dict[str, object]) -> Diary:
    diary = Diary(tmp_path)
    run = make_run(toys.graph(**nodes), sources, processes=processes, tracer=diary)
    run.start()
    run.finish()
    return diary


def test_each_frame_is_heard_of_at_every_stage_and_at_the_end(tmp_path):
    work = {"a": {"op": "same", "workers": 2}, "b": {"op": "add_field"}}
    diary = traced(tmp_path, {"s": "20", "t": "10"}, **work)
    for stage in ("numbers", "a", "b"):
        results = [i for span in diary.spans if span.stage == stage for i in span.results]
        seen = Counter(packet.stream for packet in results if isinstance(packet, Packet))
        assert seen == {"s": 20, "t": 10}, stage
    finished = [what[2] for what in diary.heard if what[0] == "finished"]
    assert len(set(finished)) == len(finished) == 30
    for span in diary.spans:
        assert span.start_ns <= span.end_ns
        assert all(queued_ns <= span.start_ns for queued_ns, _ in span.taken)


def test_a_run_opens_stage_by_stage_and_ends_once(tmp_path):
    diary = traced(tmp_path, {"s": "5"}, a={"op": "same"}, b={"op": "same"})
    assert [what[0] for what in diary.heard[:4]] == ["begin", "opened", "opened", "opened"]
    assert {what[1] for what in diary.heard[1:4]} == {"a", "b", "collect"}
    assert [what[0] for what in diary.heard].count("end") == 1
    assert diary.heard[-1] == ("end",)


def test_enter_and_left_alternate_in_every_worker(tmp_path):
    diary = traced(tmp_path, {"s": "40", "t": "40"}, a={"op": "same", "workers": 3})
    workers = {what[1:] for what in diary.heard if what[0] in ("enter", "left")}
    for worker in workers:
        calls = [what[0] for what in diary.heard if what[1:] == worker and what[0] in ("enter", "left")]
        if worker[0] == "numbers":  # asked once more, for the end
            assert calls.pop() == "enter"
        assert calls == ["enter", "left"] * (len(calls) // 2)


def test_each_process_has_a_tracer_of_its_own(tmp_path):
    traced(tmp_path, {"s": "20", "t": "10"}, processes=2, a={"op": "same"})
    heard = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    streams = [{what[2][0] for what in told if what[0] == "finished"} for told in heard]
    assert sorted(streams, key=str) == [{"s"}, {"t"}]


def test_what_a_stage_computes_is_told_from_what_it_waits_for():
    graph = toys.graph(burn={"op": "burn", "ms": 20}, slow={"op": "slow", "ms": 20})
    run = Run(graph, {"s": "30"})
    run.start()
    stages = {stage.name: stage for stage in run.finish().stages}
    burn, slow = stages["burn"], stages["slow"]
    assert burn.cpu * run.stats().seconds >= 0.9 * 30 * 0.020
    assert slow.cpu < 0.2 * slow.busy
    assert stages["numbers"].blocked > stages["numbers"].busy  # which waits for room behind it


def test_the_figures_of_a_window_are_those_of_its_time_alone():
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
