"""Live sources: events keep their places, a source may carry many streams, the age of packets is bounded."""

import time

import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.edges.lane import Lane
from pipeline.make_run import run_graph
from pipeline.packet import Event, Packet
from pipeline.run import Run


def of(stream: str) -> list[str]:
    """The entries of the diary that concern a stream."""
    return [
        entry for entry in toys.Diary.entries if stream in entry.replace("reset", "").replace("moved", "")
    ]


FORKED = {
    "fork": {"op": "same", "jitter_ms": 0.2, "workers": 3, "after": "script"},
    "other": {"op": "same", "jitter_ms": 0.2, "after": "script", "on_full": "drop_oldest", "capacity": 1},
    "diary": {"op": "diary", "after": ["fork", "other"]},
}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 3))
def test_events_keep_their_places(is_event, batch, workers):
    words, expected, seq = [], [], 0
    for event in is_event:
        words.append("a!" if event else f"a{seq}")
        expected += ["reset a", "a moved"] if event else [f"a{seq}"]
        seq += not event
    work = {"op": "same", "jitter_ms": 0.2, "workers": workers, "batch": {"max": batch}}
    run_graph(toys.graph("script", work=work, diary={"op": "diary"}), {"source": " ".join(words)})
    assert toys.Diary.entries == [*expected, "a ends"] if seq else ["source ends"]


def test_events_pass_forks_and_joins_once_and_in_order():
    words = [f"a{i}" if i % 5 else f"a{i} a!" for i in range(40)]
    stats = run_graph(toys.graph("script", **FORKED), {"source": " ".join(words)})
    entries = of("a")
    assert entries.count("a moved") == 8  # although one branch drops packets
    seqs = [int(entry[1:]) for entry in entries if entry[1:].isdigit()]
    assert seqs == sorted(seqs)
    for number, place in enumerate(i for i, entry in enumerate(entries) if entry == "a moved"):
        before = [int(entry[1:]) for entry in entries[:place] if entry[1:].isdigit()]
        after = [int(entry[1:]) for entry in entries[place:] if entry[1:].isdigit()]
        assert max(before, default=0) <= 5 * number < min(after, default=10**6)
    assert len(seqs) + sum(stats.edges[0].dropped.values()) + sum(stats.edges[1].dropped.values()) >= 40


def test_a_source_of_several_streams():
    stats = run_graph(toys.graph("script", diary={"op": "diary"}), {"topic": "a0 b0 a1 a! b1 a. b2 c0"})
    assert of("a") == ["a0", "a1", "reset a", "a moved", "a ends"]
    assert of("b") == ["b0", "b1", "b2", "b ends"]
    assert [(s.name, s.source, s.read, s.finished, s.ended) for s in stats.streams] == [
        ("a", "topic", 2, 2, True), ("b", "topic", 3, 3, True), ("c", "topic", 1, 1, True)
    ]  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
def test_a_source_learns_what_has_left_every_last_stage(batch, monkeypatch):
    ends = {
        "slow": {"op": "slow", "ms": 5, "after": "script"},
        "collect": {"op": "collect", "after": "script", "batch": {"max": batch}},
    }
    seen = []

    class Finished(toys.Script):
        def finished(self, packet):
            seen.append((packet.seq, stage_of("slow").packets_out))

    monkeypatch.setitem(toys.REGISTRY, "script", Finished)
    run = Run(toys.graph("script", **ends), {"topic": " ".join(f"a{i}" for i in range(6))})
    stage_of = lambda name: next(s for s in run.stats().stages if s.name == name)  # noqa: E731
    run.start()
    run.finish()
    assert seen[-1][0] == 5
    assert all(seq < slow for seq, slow in seen)  # never before the slower stage has finished it


def test_packets_that_are_too_old_are_dropped_and_counted():
    graph = toys.graph(slow={"op": "slow", "ms": 20, "capacity": 100}, more={"op": "same"})
    run = Run(graph, {"a": "60@1"}, live=True, max_age_s=0.1)
    run.start()
    stats = run.finish()
    stale = sum(edge.dropped.get("stale", 0) for edge in stats.edges)
    assert stale > 20
    assert stale + len(toys.Collect.packets) == 60
    assert stats.streams[0].age_p99_ms < 100 + 20 * 3


def test_an_event_is_seen_from_outside():
    run = Run(toys.graph("script", diary={"op": "diary"}), {"source": "a0 a! a1"}, live=True)
    start = time.time_ns()
    run.start()
    run.finish()
    (event,) = run.events()
    assert (event.stream, event.kind, event.resets) == ("a", "moved", True)
    assert start <= event.at_ns <= time.time_ns()


def popped(lane: Lane) -> list[str]:
    """What a lane hands out, in order."""
    items = iter(lane.pop, None)
    return [f"{item.stream}{item.seq if isinstance(item, Packet) else ' ' + item.kind}" for _, item in items]


@pytest.mark.parametrize(
    ("policy", "given"),
    [
        ("drop_oldest", ["a3", "b0", "c7", "a4", "c8"]),
        ("drop_newest", ["a0", "b0", "c5", "a1", "c6"]),
        ("latest", ["a4", "b0", "c8"]),
        ("block", ["a0", "b0", "c5", "a1", "c6", "a2", "c7", "a3", "c8", "a4"]),
    ],
)
def test_streams_take_turns_and_lose_only_their_own_packets(policy, given):
    lane = Lane(2, policy)
    for stream, seqs in (("a", range(5)), ("b", range(1)), ("c", range(5, 9))):
        for seq in seqs:
            lane.append(0, toys.packet(stream, seq))
    assert popped(lane) == given
    assert lane.ledger().taken.total() == 10 == len(given) + lane.dropped.total()
    assert lane.packets == 0


def test_a_full_lane_drops_no_event_and_keeps_packets_after_it():
    lane = Lane(1, "drop_oldest")
    for item in (toys.packet("a", 0), Event("a", "back", 0), toys.packet("a", 1), toys.packet("a", 2)):
        lane.append(0, item)
    assert popped(lane) == ["a back", "a2"]


def test_cameras_in_step_get_equal_shares():
    run = Run(toys.graph(slow={"op": "slow", "ms": 10}), dict.fromkeys("abcdefgh", "60@5"), live=True)
    run.start()
    stats = run.finish()
    assert stats.dropped > 200
    assert min(stream.finished for stream in stats.streams) >= 0.5 * stats.finished / 8
    assert all(stream.read == stream.finished + stream.dropped for stream in stats.streams)


def test_an_error_at_an_event_or_an_end_does_not_end_a_live_run(caplog):
    graph = toys.graph("script", aside={"op": "fail_aside"}, diary={"op": "diary"})
    run = Run(graph, {"source": "a0 a! a1 a. b0"}, live=True)
    run.start()
    run.finish()
    assert of("a") == ["a0", "reset a", "a moved", "a1", "a ends"]
    assert of("b") == ["b0", "b ends"]
    assert sorted(message for message in caplog.messages if "no room" in message) == [
        "at an event (moved) of a: no room for events",
        "at the end of a: no room for the end",
        "at the end of b: no room for the end",
    ]


def test_packets_set_aside_in_a_row_are_logged_once(caplog, monkeypatch):
    class Bad(toys.FailAt):
        def process(self, packets):
            if 10 <= packets[0].seq < 40:
                raise ValueError(f"bad frame {packets[0].seq}")
            return packets

    nodes = {"bad": {"op": "fail_at", "seq": -1, "batch": {"max": 1}, "on_full": "block"}}
    monkeypatch.setitem(toys.REGISTRY, "fail_at", Bad)
    run = Run(toys.graph(**nodes), {"a": "60"}, live=True)
    run.start()
    stats = run.finish()
    assert len(toys.Collect.packets) == 30
    assert stats.stages[1].dropped == {"error": 30}
    assert caplog.messages == [
        "set aside a frame 10: ValueError: bad frame 10", "a goes on; 30 frames were set aside"
    ]  # fmt: skip


def test_an_edge_reports_its_capacity():
    by_stream = {"by_stream": {"op": "same_by_stream", "workers": 3, "batch": {"max": 5}, "after": "other"}}
    live = Run(toys.graph("script", **FORKED, **by_stream), live=True, keep_open=True)
    names = [edge.name for edge in live.stats().edges]
    assert dict(zip(names, live.room(4), strict=True)) == {
        "script → fork": 8,  # 2 of each stream
        "script → other": 4,  # as the graph says, 1 of each stream
        "fork → diary": None,
        "other → diary": None,
        "other → by_stream": 15,  # of all streams together, but each worker has its own
        "by_stream → collect": 1,
    }
    assert live.room(1)[names.index("other → by_stream")] == 5  # a stream stays with its worker
