"""Producers and workers wait for each other, and nobody waits for ever."""

import random
import threading
import time

import pytest

from pipeline.edges.edge import Edge
from pipeline.edges.inbox import Inbox
from pipeline.edges.lane import Lane
from pipeline.packet import End, Event, Packet

PACKETS = 150


def packet(stream, seq=0):
    return Packet(stream, seq, seq, 0, (64, 48))


def items_of(stream, dice):
    """The packets of a stream, and sometimes an event, which needs no capacity."""
    for seq in range(PACKETS):
        yield packet(stream, seq)
        if dice.random() < 0.1:
            yield Event(stream, "changed", 0)
    yield End(stream, PACKETS)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("workers", [1, 2])
def test_every_producer_that_waits_for_space_gets_it(seed, workers):
    """Many producers on a small lane, which put one or more items at a time, and batches of all sizes."""
    dice = random.Random(seed)
    lane = Lane(dice.choice([1, 3, 8]), "block")
    inbox, streams = Inbox([lane]), [f"camera{n}" for n in range(12)]
    taken, lock = [], threading.Lock()

    def produce(stream):
        own = random.Random(stream)
        waiting = []
        for item in items_of(stream, own):
            waiting.append(item)
            if own.random() < 0.7:
                inbox.put(lane, waiting)
                waiting = []
        inbox.put(lane, waiting)

    def work(number):
        own = random.Random(number)
        while (found := inbox.take(own.choice([1, 2, 5, 16]), own.choice([0, 0.001]))) is not None:
            with lock:
                taken.append(found)

    producers = [threading.Thread(target=produce, args=(stream,), daemon=True) for stream in streams]
    consumers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(workers)]
    for thread in producers + consumers:
        thread.start()
    for thread in producers:
        thread.join(20)
    assert not any(thread.is_alive() for thread in producers)
    inbox.close(lane)
    for thread in consumers:
        thread.join(20)
    assert not any(thread.is_alive() for thread in consumers)
    batches = [batch for _, batch in sorted(taken, key=lambda one: one[0])]
    for stream in streams:
        own = [item for batch in batches for _, item in batch if item.stream == stream]
        assert [item.seq for item in own if isinstance(item, Packet)] == list(range(PACKETS))
        assert isinstance(own[-1], End)
    ledger = inbox.ledger(lane)
    assert ledger.taken == ledger.given == dict.fromkeys(streams, PACKETS)
    assert ledger.in_flight == {}


def test_a_batch_is_given_out_as_soon_as_it_is_full():
    lane = Lane(8, "block")
    inbox, found = Inbox([lane]), []

    def work():
        start = time.monotonic()
        found.append((len(inbox.take(4, 30)[1]), time.monotonic() - start))

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    for seq in range(4):
        time.sleep(0.01)
        inbox.put(lane, [packet("a", seq)])
    worker.join(10)
    ((items, seconds),) = found
    assert items == 4
    assert seconds < 10


def test_a_batch_that_stays_small_is_given_out_when_its_time_is_up():
    lane = Lane(8, "block")
    inbox = Inbox([lane])
    inbox.put(lane, [packet("a", 0)])
    threading.Timer(0.05, inbox.put, [lane, [packet("a", 1)]]).start()
    start = time.monotonic()
    _, batch = inbox.take(4, 0.3)
    assert len(batch) == 2
    assert 0.3 <= time.monotonic() - start < 5


def test_a_worker_stops_filling_its_batch_when_no_more_items_can_come():
    lane = Lane(8, "block")
    inbox, found = Inbox([lane]), []
    inbox.put(lane, [packet("a")])
    worker = threading.Thread(
        target=lambda: found.extend([inbox.take(6, 30), inbox.take(6, 30)]), daemon=True
    )
    worker.start()
    time.sleep(0.05)
    inbox.close(lane)
    worker.join(10)
    assert len(found[0][1]) == 1
    assert found[1] is None


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest", "latest"])
def test_a_batch_larger_than_the_edge_is_filled_without_dropping_packets(policy):
    lane = Lane(2, policy)
    inbox, found = Inbox([lane]), []
    worker = threading.Thread(target=lambda: found.append(inbox.take(6, 30)), daemon=True)
    worker.start()
    for seq in range(6):
        inbox.put(lane, [packet("a", seq)])
        time.sleep(0.05)
    worker.join(10)
    assert [item.seq for _, item in found[0][1]] == list(range(6))
    assert lane.dropped == {}


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_stream_that_comes_back_finds_its_worker_unless_it_was_forgotten(forgotten):
    lanes = [Lane(8, "block") for _ in range(2)]
    edge = Edge("producer", "consumer", [(Inbox([lane]), lane) for lane in lanes])
    edge.put([packet("a"), End("a", 1)])
    edge.put([packet("b")])  # takes the worker that "a" has left
    if forgotten:
        edge.forget(["a"])
    edge.put([packet("a", 1)])
    received = [lane.ledger().taken for lane in lanes]
    assert received == ([{"a": 1, "b": 1}, {"a": 1}] if forgotten else [{"a": 2, "b": 1}, {}])


@pytest.mark.parametrize("inputs", [1, 2])
def test_packets_of_a_batch_that_is_being_filled_are_in_flight(inputs):
    lanes = [Lane(8, "block") for _ in range(inputs)]
    inbox, taken = Inbox(lanes), []
    worker = threading.Thread(target=lambda: taken.append(inbox.take(4, wait_s=30)), daemon=True)
    for lane in lanes:
        inbox.put(lane, [packet("yard")])
    worker.start()
    deadline = time.monotonic() + 20
    while any(lane.packets for lane in lanes) and time.monotonic() < deadline:  # until the worker has them
        time.sleep(0.001)
    for lane in lanes:
        ledger = inbox.ledger(lane)
        assert (ledger.taken["yard"], ledger.given["yard"], ledger.in_flight["yard"]) == (1, 0, 1)
        assert not ledger.balance()
    for lane in lanes:
        inbox.close(lane)
    worker.join(20)
    assert len(taken[0][1]) == 1
    for lane in lanes:
        ledger = inbox.ledger(lane)
        assert (ledger.taken["yard"], ledger.given["yard"], ledger.in_flight["yard"]) == (1, 1, 0)
