import pytest
import toys
from hypothesis import given
from hypothesis import strategies as st

from operators.kafka.offset_ledger import SWALLOWED_S, Ledger


def given_out(*names, ledger=None):
    """A ledger of these packets (`a0` is frame 0 of stream a), at offsets 0, 1 … of partition 0."""
    ledger = ledger or Ledger()
    for offset, name in enumerate(names):
        ledger.give(0, offset, toys.packet(name[0], int(name[1:]), run="r"))
    return ledger


def finish(ledger, *names):
    for name in names:
        ledger.finish(toys.packet(name[0], int(name[1:]), run="r"))


@pytest.mark.parametrize(
    ("finished", "position"),
    [
        ((), None),
        (("a0",), 1),
        (("b0",), None),  # a0 before it is still out
        (("b0", "a0"), 2),
        (("a1",), 1),  # which says that a0 is done, too, but nothing of b0
        (("a1", "b0"), 3),
        (("a1", "b1"), 4),
        (("a9",), None),
        (("a0", "a0"), 1),
    ],
)
def test_what_may_be_committed(finished, position):
    ledger = given_out("a0", "b0", "a1", "b1")
    finish(ledger, *finished)
    assert ledger.positions().get(0) == position


def test_a_packet_of_another_run_is_another_packet():
    ledger = given_out("a0")
    ledger.finish(toys.packet("a", 0, run="other"))
    assert ledger.positions() == {}


def test_what_is_no_packet_is_done_when_it_says_so():
    ledger = Ledger()
    first = ledger.give("p", 7)
    ledger.give("p", 8)()
    assert ledger.positions() == {}
    first()
    assert ledger.positions() == {"p": 9}


def test_a_partition_that_is_gone_is_forgotten():
    ledger = given_out("a0", "a1")
    ledger.give(1, 0, toys.packet("b", 0, run="r"))
    ledger.forget([0])
    finish(ledger, "a1", "b0")
    assert ledger.positions() == {1: 1}
    assert ledger.out() == {}


def test_waiting_for_what_is_out():
    ledger = given_out("a0")
    assert ledger.wait([1])
    assert not ledger.wait([0])
    finish(ledger, "a0")
    assert ledger.wait()


def test_a_packet_without_a_trace_does_not_hold_up_the_others_for_ever():
    now = [0.0]
    ledger = given_out("a0", ledger=Ledger(clock=lambda: now[0]))
    now[0] = SWALLOWED_S - 1
    ledger.give(0, 1, toys.packet("b", 0, run="r"))
    now[0] = SWALLOWED_S + 1
    ledger.give(0, 2, toys.packet("b", 1, run="r"))
    finish(ledger, "b0")
    assert ledger.positions() == {}
    finish(ledger, "b1")
    assert ledger.positions() == {0: 3}
    assert ledger.swallowed == 1
    assert ledger.out() == {}


@given(st.lists(st.sampled_from("abc"), max_size=30), st.randoms())
def test_nothing_is_committed_before_it_is_done(streams, random):
    """Whatever order packets leave in, as long as each stream keeps its own."""
    ledger, waiting, done = Ledger(), {}, set()
    for offset, stream in enumerate(streams):
        packet = toys.packet(stream, offset, run="r")
        ledger.give(0, offset, packet)
        waiting.setdefault(stream, []).append(packet)
    while waiting:
        stream = random.choice(sorted(waiting))
        taken = waiting[stream][: random.randint(1, 3)]  # the first of them were dropped on the way
        ledger.finish(taken[-1])
        done |= {packet.seq for packet in taken}
        waiting[stream] = waiting[stream][len(taken) :]
        if not waiting[stream]:
            del waiting[stream]
        contiguous = next((i for i in range(len(streams)) if i not in done), len(streams))
        assert ledger.positions().get(0, 0) == contiguous
