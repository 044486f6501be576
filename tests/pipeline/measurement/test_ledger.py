"""Books and ledgers: what is in flight, what an operator may hold, and sums over streams and time."""

from __future__ import annotations

import pytest
from toys import packet

from pipeline.measurement.ledger import Book
from pipeline.packet import End, Event


def run_call(book: Book, taken: list, given: list, dropped=(), ticket: int = 0) -> None:
    book.begin(ticket, [(0, item) for item in taken])
    book.settle(ticket, given, dropped)


def test_packets_are_in_flight_until_their_call_is_settled():
    book = Book()
    book.begin(0, [(0, packet("a", 0)), (0, packet("b", 0)), (0, End("a", 1))])
    book.begin(1, [(0, (packet("a", 1), packet("a", 1)))])  # joined: one packet
    ledger = book.snapshot()
    assert (ledger.taken, ledger.given, ledger.in_flight) == ({"a": 2, "b": 1}, {}, {"a": 2, "b": 1})
    book.settle(0, [packet("a", 0), End("a", 1)], [("b", "tired")])
    ledger = book.snapshot()
    assert (ledger.given, ledger.in_flight, ledger.dropped) == (
        {"a": 1, "b": 0},
        {"a": 1},
        {("b", "tired"): 1},
    )
    assert not ledger.balance()


def test_only_an_operator_that_holds_may_keep_packets_and_only_to_the_end():
    for holds in (False, True):
        book = Book(holds=holds)
        run_call(book, [packet("a", 0), packet("a", 1)], [packet("a", 0)])
        ledger = book.snapshot()
        assert (ledger.in_flight, ledger.balance()) == (({"a": 1}, {}) if holds else ({}, {"a": 1}))
        run_call(book, [End("a", 2)], [End("a", 2)])
        assert book.snapshot().balance() == {"a": 1}


def test_an_end_that_is_held_covers_only_what_came_before_it():
    book = Book(holds=True)
    run_call(book, [packet("a", 0), End("a", 1), packet("a", 1)], [])  # the stream has begun again
    assert book.snapshot().in_flight == {"a": 2}
    run_call(book, [packet("b", 0)], [packet("a", 0), End("a", 1)])
    assert book.snapshot().in_flight == {"a": 1, "b": 1}
    assert not book.snapshot().balance()
    run_call(book, [End("a", 1)], [End("a", 1)])
    assert book.snapshot().balance() == {"a": 1}


def test_a_closed_operator_holds_nothing():
    book = Book(holds=True)
    run_call(book, [packet("a", 0)], [])
    book.close()
    assert book.snapshot().balance() == {"a": 1}


def test_repeated_and_reordered_packets_are_told_apart():
    book = Book()
    packets = [packet("a", seq) for seq in (0, 1, 1, 3, 2)]
    run_call(book, packets, packets)
    ledger = book.snapshot()
    assert (ledger.repeated, ledger.reordered) == ({"a": 1}, {"a": 1})


def test_numbers_may_begin_anew_after_an_end_or_a_reset():
    book = Book()
    for between in (End("a", 2), Event("a", "moved", 0, resets=True)):
        items = [packet("a", 7), between, packet("a", 3), End("a", 1)]
        run_call(book, items, items)
    harmless = [packet("a", 7), Event("a", "back", 0), packet("a", 3)]
    run_call(book, harmless, harmless)
    assert book.snapshot().reordered == {"a": 1}


@pytest.mark.parametrize("taken", [[packet("b", 0)], [End("a", 1)]], ids=["end held", "end in the call"])
def test_a_stream_is_not_forgotten_before_its_end_has_left(taken):
    """The call that gives the end is not settled yet, although the last stage may have the end already."""
    book = Book(holds=True)
    others = [item for item in taken if item.stream == "b"]
    run_call(book, [packet("a", 0), *([End("a", 1)] if others else [])], [])
    book.begin(1, [(0, item) for item in taken])
    book.forget(["a"])
    book.settle(1, [packet("a", 0), End("a", 1), *others])
    assert not book.snapshot().balance()
    book.forget(["a"])
    assert (book.snapshot().taken[""], book.snapshot().given[""]) == (1, 1)


def test_forgotten_streams_keep_their_sums():
    book = Book()
    for stream in "ab":
        run_call(book, [packet(stream, 0), packet(stream, 1)], [packet(stream, 0)], [(stream, "tired")])
    earlier = book.snapshot()
    book.forget(["a"])
    ledger = book.snapshot()
    assert (ledger.taken, ledger.given) == ({"": 2, "b": 2}, {"": 1, "b": 1})
    assert ledger.dropped == {("", "tired"): 1, ("b", "tired"): 1}
    since = ledger.since(earlier)
    assert (since.taken.total(), since.dropped.total(), since.balance().total()) == (0, 0, 0)
