"""What became of every packet: the sum is closed, and says so when it is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import toys

from pipeline.run import Run
from tools.profiling.flow import flow_of


def run(graph, sources, **options):
    running = Run(graph, sources, **options)
    running.start()
    running.finish()
    return running.stats()


GRAPHS = {
    "a chain": (
        lambda: toys.graph(a={"op": "same", "workers": 3, "batch": {"max": 4}}, b={"op": "hold"}),
        {"read": 80, "finished": 80, "dropped": {}},
    ),
    "a stage that drops half of them": (
        lambda: toys.graph(odd={"op": "odd"}, same={"op": "same"}),
        {"read": 80, "finished": 40, "dropped": {"even": 40}},
    ),
    "a join": (
        lambda: toys.graph(
            a={"op": "same"}, b={"op": "add_field", "after": "numbers"}, collect={"op": "collect", "after": ["a", "b"]}
        ),
        {"read": 80, "finished": 80, "dropped": {}},
    ),
    "packets that are set aside": (
        lambda: toys.graph(fails={"op": "fail_at", "seq": 7, "on_error": "skip"}),
        {"read": 80, "finished": 78, "dropped": {"error": 2}},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("graph", "expected"), GRAPHS.values(), ids=GRAPHS)
def test_every_packet_is_accounted_for(graph, expected):
    checked = graph()
    flow = flow_of(checked, run(checked, {"a": "40", "b": "40"}))
    assert flow.model_dump() == {**expected, "in_flight": 0, "unaccounted": [], "closed": True}


def test_losses_count_on_the_way_to_the_end_that_finished_fewest():
    checked = toys.graph(
        slow={"op": "slow", "ms": 5, "on_full": "drop_oldest"},
        slower={"op": "slow", "ms": 25, "on_full": "drop_oldest", "after": "numbers"},
        first={"op": "same", "after": "slow"},
        second={"op": "same", "after": "slower"},
        collect={"op": "collect", "after": "first"},
    )
    flow = flow_of(checked, run(checked, {"a": "60@1"}))
    assert flow.closed
    assert flow.read == 60
    assert flow.dropped["full"] == 60 - flow.finished > 20


def change_edges(stats, **changes):
    edges = [replace(edge, ledger=replace(edge.ledger, **changes)) for edge in stats.edges]
    return replace(stats, edges=edges)


def lose_on_an_edge(stats):
    return change_edges(stats, given=Counter(a=19))


def lose_between(stats):
    streams = [replace(stream, read=stream.read + 1) for stream in stats.streams]
    return replace(stats, streams=streams)


def count_a_loss_twice(stats):
    return change_edges(stats, dropped=Counter({("a", "full"): 1}))


@pytest.mark.parametrize("wrong", [lose_on_an_edge, lose_between, count_a_loss_twice])
def test_a_sum_that_does_not_come_out_even_is_not_closed(wrong):
    checked = toys.graph(same={"op": "same"})
    stats = run(checked, {"a": "20"})
    assert flow_of(checked, stats).closed
    assert not flow_of(checked, wrong(stats)).closed
