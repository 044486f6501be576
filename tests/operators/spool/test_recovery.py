"""What a spool finds of earlier processes: killed ones, torn ends, damaged files."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.spool.format import HEADER, RECORD
from tests.support.kafka.counting_spool import CountingSpool, segments

messages = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=40)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "spool"


@settings(max_examples=60, deadline=None)
@given(st.lists(messages, max_size=6), st.data())
def test_unacknowledged_messages_survive_a_kill(batches, data):
    with tempfile.TemporaryDirectory() as root:
        waiting = []
        for batch in batches:  # each by another process
            spool = CountingSpool(root, cap=16000)
            read = []
            for message in batch:
                spool.append([message])
                waiting.append(message)
                if data.draw(st.booleans()):
                    read += spool.read(data.draw(st.integers(1, 3000)))
            assert [message for _, message in read] == waiting[: len(read)]
            done = data.draw(st.integers(0, len(read)))
            if done:
                spool.acknowledge(read[done - 1][0])
                waiting = waiting[done:]
            spool.kill() if data.draw(st.booleans()) else spool.close()
        spool = CountingSpool(root, cap=16000)
        assert spool.waiting == len(waiting)
        dropped = spool.counts["spool_dropped"]
        assert spool.rest() == waiting[dropped:]
        spool.close()


@settings(max_examples=60, deadline=None)
@given(messages, st.data())
def test_a_torn_end_loses_only_the_incomplete_messages(batch, data):
    with tempfile.TemporaryDirectory() as root:
        spool = CountingSpool(root)
        for message in batch:
            spool.append([message])
        spool.kill()
        (path,) = segments(Path(root))
        cut = data.draw(st.integers(0, path.stat().st_size))
        os.truncate(path, cut)
        ends = [HEADER.size]
        for message in batch:
            ends.append(ends[-1] + RECORD.size + len(message))
        complete = sum(end <= cut for end in ends[1:])
        spool = CountingSpool(root)
        spool.append([b"new"])
        assert spool.rest() == [*batch[:complete], b"new"]
        spool.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(messages, min_size=2, max_size=5), st.data())
def test_damaged_messages_are_counted_and_never_read(batches, data):
    with tempfile.TemporaryDirectory() as root:
        spool = CountingSpool(root, cap=40_000)  # segments of 5 kB
        for batch in batches:
            for message in batch:
                spool.append([message])
        spool.kill()
        path = data.draw(st.sampled_from(segments(Path(root))))
        found = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(found) - 1))
        found[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(found)
        spool = CountingSpool(root, cap=40_000)
        sent = [message for batch in batches for message in batch]
        rest = spool.rest()
        remaining = iter(sent)
        assert all(message in remaining for message in rest)  # in order, and none that was not sent
        if len(rest) < len(sent):
            assert sum(spool.counts[name] for name in ("spool_damaged_segments", "spool_torn")) == 1
        spool.append([b"after"])
        assert spool.rest() == [b"after"]
        spool.close()


def test_a_damaged_segment_in_the_middle_is_renamed(root, caplog):
    spool = CountingSpool(root, cap=8 * 1000)
    sent = [bytes([i]) * 400 for i in range(12)]
    for message in sent:
        spool.append([message])
    spool.kill()
    path = segments(root)[2]
    first = int(path.stem)
    damaged = bytearray(path.read_bytes())
    damaged[HEADER.size + RECORD.size + 400 + 50] ^= 1  # within its second record
    path.write_bytes(damaged)
    spool = CountingSpool(root, cap=8 * 1000)
    n = int(segments(root)[3].stem) - first
    assert spool.rest() == [*sent[: first + 1], *sent[first + n :]]
    assert spool.counts["spool_damaged"] == n - 1
    assert path.with_suffix(".corrupt").read_bytes() == damaged
    assert not path.exists()
    assert "damaged" in caplog.text
    spool.close()


def test_a_killed_process_loses_nothing(root):
    code = """
import sys
from pathlib import Path
from operators.spool.spool import Spool
spool = Spool(Path(sys.argv[1]), 1 << 30)
for i in range(10**9):
    spool.append([b"%d" % i])
    print(i, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE)
    for line in process.stdout:
        if int(line) >= 2000:
            os.kill(process.pid, signal.SIGKILL)
            break
    printed = int((process.stdout.read().split(b"\n")[-2:-1] or [line])[0])
    process.wait()
    spool = CountingSpool(root)
    rest = spool.rest()
    assert len(rest) in (printed + 1, printed + 2)  # the last may have been written and not printed
    assert rest == [b"%d" % i for i in range(len(rest))]
    spool.close()


def test_processes_share_a_root_and_take_over_the_folders_of_dead_ones(root):
    first, second = CountingSpool(root), CountingSpool(root)
    assert first.folder != second.folder
    first.append([b"a", b"b"])
    second.append([b"c"])
    third = CountingSpool(root)
    assert third.waiting == 0  # the others are alive
    third.close()
    first.kill()
    second.kill()
    successor = CountingSpool(root)
    successor.append([b"own"])
    assert successor.counts["spool_adopted"] == 3
    assert successor.rest() == [b"a", b"b", b"c", b"own"]
    successor.acknowledge(successor.read_end - 1)
    successor.close()
    assert segments(root) == []
    last = CountingSpool(root)
    assert (last.waiting, last.rest()) == (0, [])
    last.close()
