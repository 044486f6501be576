"""Joins of several inputs: nothing piles up, and every end and event passes once."""

import time

from toys import packet

from pipeline.edges.join import Joiner
from pipeline.packet import End, Event


def test_packets_do_not_pile_up_when_the_other_input_gives_nothing():
    joiner, matched = Joiner(2, most=64), 0
    for seq in range(10_000):
        joiner.add(0, packet("a", seq))
        if seq < 100:
            matched += joiner.add(1, packet("a", seq)) is not None
    assert joiner.waiting(0) == {"a": 64}
    assert matched == 100
    assert joiner.take_unmatched() == [{"a": 10_000 - 100 - 64}, {}]
    # A packet that comes too late finds no partner, and is dropped when the next one comes.
    assert joiner.add(1, packet("a", 500)) is None
    assert joiner.add(1, packet("a", 9_999)) is not None
    assert joiner.waiting(0) == joiner.waiting(1) == {}


def test_packets_that_are_too_old_do_not_wait():
    joiner = Joiner(2, max_age_ns=10**9)
    joiner.add(0, packet("a", 0).replace(arrived_ns=time.time_ns() - 2 * 10**9))
    joiner.add(0, packet("a", 1))
    assert joiner.waiting(0) == {"a": 1}
    assert joiner.add(1, packet("a", 1)) is not None


def test_nothing_is_kept_of_streams_that_have_ended():
    joiner = Joiner(2, most=64)
    for name in map(str, range(1000)):
        joiner.add(0, packet(name, 0))
        assert joiner.add(0, End(name, 1)) is None
        assert isinstance(joiner.add(1, End(name, 1)), End)
    assert not joiner._streams


def test_a_stream_that_begins_again_on_one_input_before_it_has_ended_on_the_other():
    joiner, event = Joiner(2), Event("a", "back", 0)
    assert joiner.add(0, packet("a", 0)) is None
    assert joiner.add(0, End("a", 1)) is None
    assert joiner.add(0, packet("a", 1)) is None  # of the stream's second life
    assert joiner.add(1, packet("a", 0)) is not None
    assert isinstance(joiner.add(1, End("a", 1)), End)
    assert joiner.add(0, event) is None
    assert joiner.add(0, packet("a", 2)) is None
    assert [part.seq for part in joiner.add(1, packet("a", 1))] == [1, 1]
    assert joiner.add(1, event) is event
    assert [part.seq for part in joiner.add(1, packet("a", 2))] == [2, 2]
    assert joiner.add(1, End("a", 2)) is None
    assert isinstance(joiner.add(0, End("a", 2)), End)
    assert not joiner._streams
