"""The closed sum: taken = given + dropped + in flight, everywhere and at all times; else the stage is named."""

from __future__ import annotations

import time

import pytest
import toys

from pipeline.errors import RunError, UnaccountedError
from pipeline.graph import Graph
from pipeline.make_run import make_run, run_graph
from pipeline.measurement.faults import Fault
from pipeline.measurement.run_stats import RunStats
from pipeline.run import Run

FAULTS = {
    "swallow": ("swallowed", "faulty took 1 packet of {} that it neither gave on nor dropped", "self.drop(packet"),
    "repeat": ("repeated", "faulty gave 1 packet of {} twice", "give every packet once"),
    "invent": ("invented", "faulty gave 1 packet of ghost of {} more than it took", "only packets that came in"),
    "swap": ("reordered", "faulty gave 1 packet of {} after later ones", "per_stream = True"),
}  # fmt: skip


def graph(do: str, **more: object) -> Graph:
    """The faulty stage stands between sound ones, which must not be named."""
    return toys.graph(
        before={"op": "same", "on_full": "block"},
        faulty={"op": "faulty", "do": do, **more},
        behind={"op": "same", "workers": 2},
    )


def stage(stats: RunStats, name: str) -> object:
    return next(stage for stage in stats.stages if stage.name == name)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("do", FAULTS)
def test_a_stage_that_breaks_the_sum_is_named_with_its_streams(do, batch, processes):
    kind, found, remedy = FAULTS[do]
    run = make_run(graph(do, batch={"max": batch}), {"a": "20", "b": "20", "short": "3"}, processes=processes)
    run.start()
    with pytest.raises(UnaccountedError) as error:
        run.finish()
    ghost = "ghost of " if do == "invent" else ""
    assert sorted(run.stats().faults) == [
        Fault("faulty", f"{ghost}{stream}", kind, 1) for stream in ("a", "b")
    ]
    for stream in ("a", "b"):
        assert found.format(stream) in str(error.value)
    assert remedy in str(error.value)


def test_the_message_names_a_few_faults_and_counts_the_rest():
    with pytest.raises(UnaccountedError, match=r"of s2 that it neither .*, and 4 more faults; give every"):
        run_graph(graph("swallow"), {f"s{n}": "10" for n in range(7)})


@pytest.mark.parametrize("do", FAULTS)
def test_a_live_run_goes_on_and_names_the_stage_before_its_streams_end(do):
    run = Run(graph(do), {"a": "1000@5"}, live=True)
    run.start()
    deadline = time.monotonic() + 20
    while FAULTS[do][0] not in {fault.kind for fault in run.stats().faults}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not run.stats().streams[0].ended
    run.stop()
    stats = run.finish()  # raises nothing
    assert [(fault.stage, fault.kind, fault.packets) for fault in stats.faults] == [
        ("faulty", FAULTS[do][0], 1)
    ]


def test_what_an_operator_drops_is_counted_with_its_reason_and_stream():
    stats = run_graph(toys.graph(odd={"op": "odd", "batch": {"max": 3}}), {"a": "11", "b": "4"})
    assert stage(stats, "odd").dropped == {"even": 8}
    assert [(stream.read, stream.finished, stream.dropped) for stream in stats.streams] == [
        (11, 5, 6),
        (4, 2, 2),
    ]
    assert not stats.faults


def test_a_reason_that_is_not_declared_is_an_error():
    message = r"Faulty drops a frame 5 for 'bored', which is no declared reason; add it to drop_reasons \(now: 'decl"
    with pytest.raises(RunError, match=message):
        run_graph(graph("drop undeclared"), {"a": "10"})


def test_a_packet_that_is_dropped_by_a_call_that_fails_counts_once():
    stats = run_graph(
        graph("drop and fail", on_error="skip", batch={"max": 4, "wait_ms": 20}), {"a": "20", "b": "20"}
    )
    assert stage(stats, "faulty").dropped == {"error": 2}
    assert stats.finished == 38
    assert not stats.faults


class GivesAndFails(toys.Same):
    """Gives each packet as it comes to it; raises after it has given frame 5."""

    def process(self, packets):
        for packet in packets:
            yield packet
            if packet.seq == 5:
                raise ValueError("bad frame")


def test_what_a_call_gave_before_it_failed_is_not_given_on(monkeypatch):
    monkeypatch.setitem(toys.REGISTRY, "same", GivesAndFails)
    node = {"op": "same", "on_error": "skip", "batch": {"max": 4, "wait_ms": 20}}
    stats = run_graph(toys.graph(gives=node), {"a": "20", "b": "20"})
    assert stage(stats, "gives").dropped == {"error": 2}
    assert stats.finished == 38
    assert not stats.faults


@pytest.mark.parametrize("do", ["stop", "abort"])
def test_the_sum_closes_at_all_times_and_however_the_run_ends(do):
    nodes = {
        "left": {"op": "same", "workers": 3, "jitter_ms": 2, "after": "numbers", "batch": {"max": 3}},
        "right": {"op": "odd", "after": "numbers"},
        "joined": {"op": "same", "after": ["left", "right"], "capacity": 1},
        "hold": {"op": "hold"},
        "slow": {"op": "slow", "ms": 3},
    }
    run = Run(toys.graph(**nodes), {"a": "100000", "b": "100000@1"})
    run.start()
    seen = 0
    end = time.monotonic() + 1
    while time.monotonic() < end:
        stats = run.stats()
        seen = max(seen, stage(stats, "hold").in_flight)
        assert not stats.faults
        for place in [*stats.stages, *stats.edges]:
            ledger = place.ledger if hasattr(place, "ledger") else place.work.ledger
            assert ledger.taken.total() == (
                ledger.given.total() + ledger.dropped.total() + ledger.in_flight.total()
            )
    getattr(run, do)()
    stats = run.finish()
    assert seen >= 2  # one packet of each stream
    assert not stats.faults
    assert [place.in_flight for place in [*stats.stages, *stats.edges]] == [0] * (
        len(stats.stages) + len(stats.edges)
    )
    assert sum(stream.read for stream in stats.streams) > 20


class DropsAtTheSource(toys.Numbers):
    drop_reasons = ("dark",)

    def read(self, stream, uri):
        for packet in super().read(stream, uri):
            if packet.seq < 3:
                self.drop(packet, "dark")
            else:
                yield packet


def test_a_source_may_drop_packets_too(monkeypatch):
    monkeypatch.setitem(toys.REGISTRY, "numbers", DropsAtTheSource)
    stats = run_graph(toys.graph(), {"a": "10", "dark": "2"})
    assert stats.stages[0].dropped == {"dark": 5}
    assert [(s.read, s.finished, s.dropped, s.ended) for s in stats.streams] == [
        (10, 7, 3, True), (2, 0, 2, True)
    ]  # fmt: skip
    assert not stats.faults


def test_a_source_that_gives_frames_out_of_order_is_named_but_not_the_stages_after_it():
    with pytest.raises(UnaccountedError, match="script gave 1 packet of a after later ones"):
        run_graph(toys.graph("script", same={"op": "same"}), {"topic": "a0 a2 a1 a3"})
    run_graph(toys.graph("script", same={"op": "same"}), {"topic": "a0 a2 a! a1 a3 a. a0"})


class KeepsForEver(toys.Hold):
    def end_stream(self, stream):
        return []


def test_what_an_operator_still_holds_after_the_end_of_the_stream_is_unaccounted_for(monkeypatch):
    monkeypatch.setitem(toys.REGISTRY, "hold", KeepsForEver)
    with pytest.raises(UnaccountedError, match="hold took 1 packet of a that it neither gave on nor dropped"):
        run_graph(toys.graph(hold={"op": "hold"}), {"a": "10"})


class HoldsUndeclared(toys.Hold):
    holds_packets = False


def test_an_operator_that_holds_without_saying_so_is_named_only_while_it_holds(monkeypatch):
    monkeypatch.setitem(toys.REGISTRY, "hold", HoldsUndeclared)
    run = Run(toys.graph(hold={"op": "hold"}), {"a": "40@5"})
    run.start()
    found = set()
    while not run.wait(0.01):
        found |= set(run.stats().faults)
    assert found == {Fault("hold", "a", "swallowed", 1)}
    assert not run.finish().faults
