"""Snapshots of a run: what is derived from the counts, sums over processes, and differences in time."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace

import pytest

from pipeline.measurement.ledger import Ledger
from pipeline.measurement.metrics import Histogram, WorkerMetrics
from pipeline.measurement.run_stats import RunStats
from pipeline.measurement.stage_stats import EdgeStats, StageStats
from pipeline.measurement.stream_stats import PastStreams, StreamStats

SECOND = 10**9


def histogram(*durations_ms: float) -> Histogram:
    made = Histogram()
    for ms in durations_ms:
        made.record(round(ms * 1e6))
    return made


def ledger(taken: int = 0, given: int = 0, in_flight: int = 0, dropped: Counter | None = None) -> Ledger:
    """Of one stream, "yard"."""
    return Ledger(
        taken=Counter(yard=taken),
        given=Counter(yard=given),
        in_flight=Counter(yard=in_flight),
        dropped=dropped or Counter(),
    )


def stage(
    seconds: float = 10, workers: int = 2, packets_in: int = 0, packets_out: int = 0, dropped=None, **work
) -> StageStats:
    book = ledger(packets_in, packets_out, dropped=dropped)
    return StageStats("pose", workers, round(seconds * SECOND), WorkerMetrics(ledger=book, **work), Counter())


def stream(name: str = "yard", read: int = 0, finished: int = 0, **more) -> StreamStats:
    counts = {
        "instances": 2 * finished,
        "dropped": read - finished,
        "age": Histogram(),
        "run_ns": 10 * SECOND,
    }
    return StreamStats(
        name=name, source=name, read=read, expected=None, finished=finished, ended=False, lost=False,
        counters=Counter(), **{**counts, **more},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("work", "seen", "expected"),
    [
        # Two workers in 10 s: 20 s to spend; each share is of those.
        ({"busy_ns": 8 * SECOND, "cpu_ns": 6 * SECOND, "blocked_ns": 4 * SECOND}, {}, (0.4, 0.3, 0.2, 0.4)),
        ({}, {}, (0, 0, 0, 1)),
        # A call that began before the window is counted in it as a whole.
        ({"busy_ns": 30 * SECOND, "cpu_ns": 25 * SECOND, "blocked_ns": SECOND}, {}, (1, 1, 0, 0)),
        ({"busy_ns": 15 * SECOND, "blocked_ns": 15 * SECOND}, {}, (0.75, 0, 0.25, 0)),
        # A call or a wait that has not ended is not counted yet, but was seen by others.
        ({"busy_ns": 2 * SECOND}, {"busy_at_least": 0.9}, (0.9, 0, 0, 0.1)),
        ({"busy_ns": 8 * SECOND}, {"busy_at_least": 0.3}, (0.4, 0, 0, 0.6)),
        ({"busy_ns": 4 * SECOND, "cpu_ns": 2 * SECOND}, {"held_up": True}, (0.2, 0.1, 0.8, 0)),
    ],
)
def test_shares_of_the_workers_time_add_up(work, seen, expected):
    shares = stage(**work).shares(**seen)
    assert shares == pytest.approx(expected)
    assert shares.busy + shares.blocked + shares.idle == pytest.approx(1)
    assert shares.computing + shares.waiting == pytest.approx(shares.busy)


def test_a_stage_without_workers_or_time_has_shares():
    assert StageStats("pose", 0, 0, WorkerMetrics(), Counter()).shares() == (0, 0, 0, 1)


def test_values_derived_from_a_stage():
    one = stage(
        packets_in=40, packets_out=20, busy_ns=5 * SECOND, batches=Counter({4: 5, 2: 10}),
        dropped=Counter({("yard", "error"): 3, ("barn", "error"): 1, ("barn", "stale"): 2}),
        wait=histogram(*range(1, 101)), latency=histogram(50),
    )  # fmt: skip
    assert (one.packets_in_per_s, one.packets_out_per_s, one.busy) == (4, 2, 0.5)
    assert (one.batches, one.mean_batch) == ({2: 10, 4: 5}, pytest.approx(40 / 15))
    assert one.dropped == {"error": 4, "stale": 2}
    assert one.wait_p50_ms == pytest.approx(50, rel=0.07)
    assert one.wait_p99_ms == pytest.approx(99, rel=0.07)
    assert one.latency_p95_ms == pytest.approx(50, rel=0.07)


def run(seconds: float, *streams: StreamStats, past: PastStreams | None = None, **work) -> RunStats:
    lost = Counter({("yard", "full"): sum(one.dropped for one in streams)})
    read, finished = sum(one.read for one in streams), sum(one.finished for one in streams)
    return RunStats(
        "id", "toy", round(seconds * SECOND), round(seconds * SECOND / 2),
        stages=[stage(seconds, **work)],
        edges=[EdgeStats("decode", "pose", ledger(read, finished, dropped=lost))],
        streams=[replace(one, run_ns=round(seconds * SECOND)) for one in streams],
        past=past or PastStreams(),
    )  # fmt: skip


def test_processes_add_up():
    total = RunStats.total(
        [
            run(10, stream("yard", 100, 90, age=histogram(10)), packets_in=90),
            run(
                9, stream("barn", 50, 50, age=histogram(20, 20)), packets_in=50, past=PastStreams(1, 5, 5, 9)
            ),
        ]
    )
    assert [one.name for one in total.streams] == ["yard", "barn"]
    assert (total.seconds, total.cores_busy) == (10, 0.95)
    assert (total.read, total.finished, total.dropped) == (155, 145, 10)
    assert total.fps == pytest.approx(14.5)
    assert total.age_p50_ms == pytest.approx(20, rel=0.07)
    (pose,), (edge,) = total.stages, total.edges
    assert (pose.workers, pose.packets_in, pose.packets_in_per_s) == (4, 140, 14)
    assert (edge.name, edge.received, edge.dropped, edge.closed) == ("decode → pose", 150, {"full": 10}, True)
    assert total.dropped_at("pose") == {"full": 10}
    assert total.dropped_at("decode") == {}


def test_the_time_between_two_snapshots():
    earlier = run(10, stream(read=100, finished=90, age=histogram(*[10] * 90)), packets_in=90)
    later = run(14, stream(read=140, finished=110, age=histogram(*[10] * 90, *[40] * 20)), packets_in=110)
    window = later.since(earlier)
    (yard,), (pose,) = window.streams, window.stages
    assert (window.seconds, window.read, window.finished, window.dropped) == (4, 40, 20, 20)
    assert (yard.fps, yard.instances_per_frame, yard.dropped) == (5, 2, 20)
    assert yard.age_p50_ms == pytest.approx(40, rel=0.07)
    assert (pose.packets_in, pose.packets_in_per_s) == (20, 5)


def test_what_was_on_an_edge_before_counts_in_its_window():
    earlier = EdgeStats("a", "b", ledger(10, 7, in_flight=3))
    later = EdgeStats("a", "b", ledger(15, 13, in_flight=1, dropped=Counter({("yard", "full"): 1})))
    window = later.since(earlier)
    assert (window.in_flight_before, window.received, window.delivered, window.in_flight) == (3, 5, 6, 1)
    assert (earlier.closed, later.closed, window.closed) == (True, True, True)


def test_a_stream_that_was_forgotten_in_between_begins_anew():
    earlier = run(10, stream("yard", 100, 100))
    later = run(20, stream("yard", 30, 30), past=PastStreams(1, 120, 120, 240))
    window = later.since(earlier)
    assert window.streams[0].read == 30
    assert window.past == PastStreams(0, 20, 20, 40)  # which it gave before it was forgotten
    assert window.read == 50
    assert window.streams[0].fps == 3


def test_a_snapshot_travels_between_processes():
    work = {"packets_in": 9, "busy_ns": SECOND, "latency": histogram(5, 6), "batches": Counter({3: 3})}
    sent = run(10, stream("yard", 100, 90), **work)
    data = pickle.dumps(sent)
    received = pickle.loads(data)
    assert len(data) < 10_000
    assert received.fps == sent.fps
    assert received.stages[0].shares() == sent.stages[0].shares()
    assert received.stages[0].latency_p50_ms == sent.stages[0].latency_p50_ms
    assert received.losses == sent.losses
