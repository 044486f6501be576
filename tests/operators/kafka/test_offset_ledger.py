"""The offset ledger: what may be committed after which packets have left the graph."""

import pytest
import toys
from hypothesis import given
from hypothesis import strategies as st

from operators.kafka.offset_ledger import SWALLOWED_S, OffsetLedger


def ledger_of(*names, ledger=None):
    """A ledger that has handed out these packets (`a0`: frame 0 of stream a), at offsets 0, 1 … of partition 0."""
    ledger = ledger or OffsetLedger()
    for offset, name in enumerate(names):
        ledger.hand_out(0, offset, toys.packet(name[0], int(name[1:]), run="r"))
    return ledger


def finish(ledger, *names):
    for name in names:
        ledger.finish(toys.packet(name[0], int(name[1:]), run="r"))


@pytest.mark.parametrize(
    ("finished", "position"),
    [
        ((), None),
        (("a0",), 1),
        (("b0",), None),  # a0, before it, is still in flight
        (("b0", "a0"), 2),
        (("a1",), 1),  # finishes a0, too, but not b0
        (("a1", "b0"), 3),
        (("a1", "b1"), 4),
        (("a9",), None),
        (("a0", "a0"), 1),
    ],
)
def test_a_partition_is_committed_up_to_the_first_unfinished_offset(finished, position):
    ledger = ledger_of("a0", "b0", "a1", "b1")
    finish(ledger, *finished)
    assert ledger.positions().get(0) == position


def test_a_packet_of_another_run_is_another_packet():
    ledger = ledger_of("a0")
    ledger.finish(toys.packet("a", 0, run="other"))
    assert ledger.positions() == {}


def test_other_messages_are_finished_by_their_callback():
    ledger = OffsetLedger()
    first = ledger.hand_out("p", 7)
    ledger.hand_out("p", 8)()
    assert ledger.positions() == {}
    first()
    assert ledger.positions() == {"p": 9}


def test_a_lost_partition_is_forgotten():
    ledger = ledger_of("a0", "a1")
    ledger.hand_out(1, 0, toys.packet("b", 0, run="r"))
    ledger.forget([0])
    finish(ledger, "a1", "b0")
    assert ledger.positions() == {1: 1}
    assert ledger.in_flight() == {}


def test_waiting_for_packets_in_flight():
    ledger = ledger_of("a0")
    assert ledger.wait([1])
    assert not ledger.wait([0])
    finish(ledger, "a0")
    assert ledger.wait()


def test_a_swallowed_packet_blocks_the_partition_only_for_a_while():
    now = [0.0]
    ledger = ledger_of("a0", ledger=OffsetLedger(clock=lambda: now[0]))
    now[0] = SWALLOWED_S - 1
    ledger.hand_out(0, 1, toys.packet("b", 0, run="r"))
    now[0] = SWALLOWED_S + 1
    ledger.hand_out(0, 2, toys.packet("b", 1, run="r"))
    finish(ledger, "b0")
    assert ledger.positions() == {}
    finish(ledger, "b1")
    assert ledger.positions() == {0: 3}
    assert ledger.swallowed == 1
    assert ledger.in_flight() == {}


@given(st.lists(st.sampled_from("abc"), max_size=30), st.randoms())
def test_nothing_is_committed_before_it_is_finished(streams, random):
    """Streams may overtake each other; within a stream, packets leave in order."""
    ledger, waiting, done = OffsetLedger(), {}, set()
    for offset, stream in enumerate(streams):
        packet = toys.packet(stream, offset, run="r")
        ledger.hand_out(0, offset, packet)
        waiting.setdefault(stream, []).append(packet)
    while waiting:
        stream = random.choice(sorted(waiting))
        taken = waiting[stream][
            : random.randint(1, 3)
        ]  # only the last is reported: those before it were dropped
        ledger.finish(taken[-1])
        done |= {packet.seq for packet in taken}
        waiting[stream] = waiting[stream][len(taken) :]
        if not waiting[stream]:
            del waiting[stream]
        contiguous = next((i for i in range(len(streams)) if i not in done), len(streams))
        assert ledger.positions().get(0, 0) == contiguous
