"""The runtime: no packet is lost or out of order, every drop is counted, every failure is reported."""

from __future__ import annotations

import logging
import time

import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, PipelineError, RunError
from pipeline.make_run import run_graph
from pipeline.measurement.run_stats import RunStats
from pipeline.run import Run


def seqs(stream: str) -> list[int]:
    return [p.seq for p in toys.Collect.packets if p.stream == stream]


def assert_accounts_close(stats: RunStats) -> None:
    for edge in stats.edges:
        assert edge.received == edge.delivered + sum(edge.dropped.values()) + edge.in_flight, edge
    for stage in stats.stages:
        assert stage.packets_in == stage.packets_out + sum(stage.dropped.values()) + stage.in_flight, stage
    assert not stats.faults


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    workers=st.integers(1, 4),
    batch=st.integers(1, 7),
    wait_ms=st.sampled_from([0, 1, 3]),
    capacity=st.integers(1, 9),
    op=st.sampled_from(["same", "same_by_stream"]),
)
def test_every_packet_arrives_once_and_in_order(lengths, workers, batch, wait_ms, capacity, op):
    node = {"op": op, "jitter_ms": 0.3, "workers": workers, "capacity": capacity}
    batching = {"batch": {"max": batch, "wait_ms": wait_ms}}
    graph = toys.graph(first={**node, **batching}, hold={"op": "hold"}, second=node)
    stats = run_graph(graph, {f"s{i}": str(n) for i, n in enumerate(lengths)})
    for i, n in enumerate(lengths):
        assert seqs(f"s{i}") == list(range(n))
    assert sorted(toys.Collect.ended) == sorted(f"s{i}" for i in range(len(lengths)))
    assert [s.finished for s in stats.streams] == lengths
    assert stats.dropped == 0
    assert all(edge.in_flight == 0 for edge in stats.edges)
    assert_accounts_close(stats)


def test_a_stream_stays_with_one_worker_if_the_operator_has_state():
    graph = toys.graph(work={"op": "same_by_stream", "workers": 3})
    run_graph(graph, {f"s{i}": "50@1" for i in range(6)})
    assert {len(threads) for threads in toys.SameByStream.seen.values()} == {1}
    assert len(set.union(*toys.SameByStream.seen.values())) == 3  # and the streams are spread


def test_batches_take_from_all_streams_and_wait_for_more():
    graph = toys.graph(work={"op": "slow", "ms": 2, "batch": {"max": 8, "wait_ms": 20}, "capacity": 8})
    stats = run_graph(graph, {f"s{i}": "40" for i in range(4)})
    work = next(stage for stage in stats.stages if stage.name == "work")
    assert work.packets_in == 160
    assert max(work.batches) == 8
    assert work.mean_batch > 6


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "latest"])
def test_drops_are_counted_and_order_is_kept(policy):
    graph = toys.graph(work={"op": "slow", "ms": 3, "on_full": policy, "capacity": 2})
    run = Run(graph, {"a": "200@0.2", "b": "200@0.2"})
    run.start()
    while not run.wait(0.01):
        assert_accounts_close(run.stats())  # at all times
    stats = run.finish()
    assert_accounts_close(stats)
    edge = next(edge for edge in stats.edges if edge.name == "numbers → work")
    assert edge.received == 400
    assert edge.dropped["full"] > 100
    assert stats.finished == 400 - edge.dropped["full"]
    assert sum(stream.dropped for stream in stats.streams) == edge.dropped["full"]
    assert all(stream.ended for stream in stats.streams)  # ends are never dropped
    for stream in "ab":
        assert seqs(stream) == sorted(set(seqs(stream)))


def test_drop_oldest_keeps_the_newest():
    graph = toys.graph(work={"op": "slow", "ms": 5, "on_full": "drop_oldest", "capacity": 1})
    run_graph(graph, {"a": "300@0.1"})
    assert seqs("a")[-1] == 299


def test_live_runs_drop_only_on_the_edge_after_the_source():
    graph = toys.graph(fast={"op": "same"}, work={"op": "slow", "ms": 2})
    stats = run_graph(graph, {"a": "400"}, live=True)
    dropping = {edge.name for edge in stats.edges if edge.dropped}
    assert dropping == {"numbers → fast"}


def test_joins_match_on_stream_and_seq():
    graph = toys.graph(
        left={"op": "add_field", "field": "scores", "after": "numbers"},
        right={"op": "add_field", "field": "embeddings", "after": "numbers", "workers": 3},
        collect={"op": "collect", "after": ["left", "right"]},
    )
    run_graph(graph, {"a": "100", "b": "70"})
    assert seqs("a") == list(range(100))
    assert seqs("b") == list(range(70))
    for p in toys.Collect.packets:
        assert p.instances.scores[0] == p.instances.embeddings[0] == p.seq


def test_joins_drop_packets_without_a_partner():
    graph = toys.graph(
        left={"op": "same", "after": "numbers"},
        right={"op": "odd", "after": "numbers"},
        collect={"op": "collect", "after": ["left", "right"]},
    )
    stats = run_graph(graph, {"a": "101"})
    assert seqs("a") == list(range(1, 101, 2))
    assert toys.Collect.ended == ["a"]
    left = next(edge for edge in stats.edges if edge.name == "left → collect")
    assert left.dropped == {"unmatched": 51}
    assert_accounts_close(stats)


def test_joined_rows_must_be_the_same():
    graph = toys.graph(
        left={"op": "add_field", "field": "scores", "after": "numbers"},
        right={"op": "add_field", "field": "embeddings", "rows": 2, "after": "numbers"},
        collect={"op": "collect", "after": ["left", "right"]},
    )
    with pytest.raises(RunError, match=r"cannot join a frame 0: its inputs hold \[1, 2\] instances"):
        run_graph(graph, {"a": "5"})


def test_fail_ends_the_run_and_keeps_what_was_finished():
    graph = toys.graph(bad={"op": "fail_at", "seq": 20, "batch": {"max": 1}})
    with pytest.raises(RunError, match="bad failed at a frame 20: ValueError: bad frame 20"):
        run_graph(graph, {"a": "5000"})
    assert seqs("a") == list(range(20))
    assert toys.Collect.ended == ["a"]  # so sinks have closed their files


def test_skip_sets_the_packet_aside_and_goes_on(caplog):
    graph = toys.graph(
        bad={"op": "fail_at", "seq": 20, "on_error": "skip", "batch": {"max": 8, "wait_ms": 5}}
    )
    with caplog.at_level(logging.ERROR):
        stats = run_graph(graph, {"a": "50", "b": "50"})
    for stream in "ab":
        assert seqs(stream) == [n for n in range(50) if n != 20]
    bad = next(stage for stage in stats.stages if stage.name == "bad")
    assert bad.dropped == {"error": 2}
    assert bad.counters["resets"] >= 1  # an operator with memory starts afresh
    assert [s.dropped for s in stats.streams] == [1, 1]
    assert "set aside a frame 20" in caplog.text


def test_an_operator_that_cannot_open_ends_the_run_before_the_first_frame():
    with pytest.raises(RunError, match="broken failed while it was being opened: OSError: no such device"):
        run_graph(toys.graph(broken={"op": "fail_open"}), {"a": "50"})
    assert seqs("a") == []


def test_a_source_that_raises_ends_the_run_with_its_name():
    with pytest.raises(PipelineError, match="a: ValueError"):
        run_graph(toys.graph(), {"a": "no number@1"} | {"b": "5"})


def test_stop_finishes_the_packets_that_were_read():
    graph = toys.graph(work={"op": "slow", "ms": 1})
    run = Run(graph, {"a": "100000"})
    run.start()
    time.sleep(0.1)
    run.stop()
    stats = run.finish()
    read = stats.streams[0].read
    assert 0 < read < 100_000
    assert seqs("a") == list(range(read))
    assert toys.Collect.ended == ["a"]


def test_abort_drops_waiting_packets_and_counts_them():
    graph = toys.graph(work={"op": "slow", "ms": 50, "capacity": 30})
    run = Run(graph, {"a": "100000"})
    run.start()
    time.sleep(0.1)
    run.abort()
    assert run.wait(5)
    stats = run.finish()
    assert_accounts_close(stats)
    assert stats.edges[0].dropped["aborted"] > 0
    assert len(seqs("a")) < 10


def test_sources_come_and_go_while_it_runs():
    graph = toys.graph(work={"op": "same_by_stream", "workers": 2})
    run = Run(graph, {"a": "100000@1"}, keep_open=True)
    run.start()
    run.add_source("b", "30")
    with pytest.raises(ConfigError, match="'a' is already being read"):
        run.add_source("a", "5")
    while "b" not in toys.Collect.ended:
        time.sleep(0.01)
    assert list(run.sources()) == ["a"]
    run.remove_source("a")
    while "a" not in toys.Collect.ended:
        time.sleep(0.01)
    while run.sources():
        time.sleep(0.01)
    assert not run.wait(0.05)  # kept open
    run.add_source("b", "10")  # the same name again
    while toys.Collect.ended.count("b") < 2:
        time.sleep(0.01)
    with pytest.raises(ConfigError, match="no source 'c'; there are: a, b"):
        run.remove_source("c")
    run.stop()
    run.finish()
    assert seqs("b") == [*range(40)]  # so that (stream, seq) names one frame
    assert seqs("a") == list(range(len(seqs("a"))))


def test_figures():
    graph = toys.graph(work={"op": "slow", "ms": 4})
    stats = run_graph(graph, {"a": "50"})
    work = next(stage for stage in stats.stages if stage.name == "work")
    assert work.packets_in == work.packets_out == 50
    assert work.latency_p50_ms >= 4
    assert work.wait_p95_ms >= 4  # the queue in front of it is full
    assert 0.7 < work.busy <= 1.001
    assert stats.streams[0].expected == 50
    assert stats.fps == pytest.approx(50 / stats.seconds)


def test_auto_workers_follow_the_number_of_streams(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    graph = toys.graph(work={"op": "same_by_stream", "workers": "auto"})
    for streams, workers in [(1, 1), (3, 3), (9, 4)]:
        stats = run_graph(graph, {f"s{i}": "1" for i in range(streams)})
        assert next(stage.workers for stage in stats.stages if stage.name == "work") == workers
