"""The spool: messages come out in order whatever happens to the process, the disk or a file."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.spool.format import HEADER, RECORD
from operators.spool.spool import Spool

MB = 1 << 20
messages = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=40)


class CountingSpool(Spool):
    """A spool with its counts; `kill` leaves it as a killed process would."""

    def __init__(self, root, cap=MB, **options):
        self.counts = Counter()
        super().__init__(Path(root), cap, count=lambda name, n: self.counts.update({name: n}), **options)

    def kill(self):
        os.close(self._disk._held)  # as the system does: the lock is released, the files stay as they are

    def rest(self):
        found = []
        while chunk := self.read(1000):
            found += chunk
        return [message for _, message in found]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "spool"


def segments(root):
    return sorted(root.glob("*/*.spool"))


def on_disk(root, message):
    return any(message in path.read_bytes() for path in segments(root))


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


def test_the_oldest_messages_are_dropped_only_at_the_cap(root, caplog):
    spool = CountingSpool(root, cap=100_000)
    sent = [b"%06d" % i + bytes(994) for i in range(300)]
    for i, message in enumerate(sent):
        spool.append([message])
        if i < 90:
            assert spool.counts["spool_dropped"] == 0
        assert sum(path.stat().st_size for path in segments(root)) <= 100_000
    rest = spool.rest()
    assert rest == sent[300 - len(rest) :]
    assert len(rest) + spool.counts["spool_dropped"] == 300
    assert len(rest) > 75
    assert caplog.text.count("the oldest messages are dropped") == 1
    spool.close()


def test_acknowledged_segments_make_room(root):
    spool = CountingSpool(root, cap=100_000)
    for i in range(1000):
        spool.append([bytes([i % 256]) * 1000])
        spool.acknowledge(spool.read(1 << 20)[-1][0])
    assert not spool.counts
    assert spool.waiting == 0
    assert len(segments(root)) <= 2
    spool.close()


def test_without_a_folder_messages_wait_in_memory(tmp_path, caplog):
    (tmp_path / "spool").write_text(
        "in the way"
    )  # not permissions: root, who may run the tests, ignores them
    now = [0.0]
    spool = CountingSpool(tmp_path / "spool", memory_bytes=5000, clock=lambda: now[0])
    for i in range(100):
        spool.append([b"%03d" % i + bytes(97)])
    assert segments(tmp_path / "spool") == []
    assert spool.folder is None
    assert spool.counts == {"spool_failed": 1, "memory_dropped": 50}
    assert [index for index, _ in spool.read(1000)] == list(range(50, 60))
    (tmp_path / "spool").unlink()
    now[0] = 10.0
    spool.append([b"100"])
    assert on_disk(tmp_path / "spool", b"100")
    spool.kill()
    successor = CountingSpool(tmp_path / "spool")
    assert [message[:3] for message in successor.rest()] == [b"%03d" % i for i in range(60, 101)]
    successor.close()
    assert [
        caplog.text.count(words) for words in ("cannot write", "memory is full", "can be written again")
    ] == [1] * 3


def test_a_full_disk_in_the_middle_keeps_order(root):
    """A limit on file sizes stands for a full disk: a write fails half-way."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    now = [0.0]
    spool = CountingSpool(root, clock=lambda: now[0])
    sent = [b"%03d" % i + bytes(997) for i in range(40)]
    try:
        spool.append(sent[:5])
        resource.setrlimit(resource.RLIMIT_FSIZE, (8500, before[1]))
        for message in sent[5:20]:
            spool.append([message])
        assert not on_disk(root, sent[19])
        assert spool.counts == {"spool_failed": 1}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    read = [message for _, message in spool.read(3500)]
    now[0] = 10.0
    for message in sent[20:]:
        spool.append([message])
    assert on_disk(root, sent[-1])
    assert read + spool.rest() == sent
    spool.kill()
    successor = CountingSpool(root)
    assert successor.rest() == sent  # nothing was acknowledged
    successor.close()


def test_a_folder_that_is_deleted_is_made_again(root):
    now = [0.0]
    spool = CountingSpool(root, cap=8000, clock=lambda: now[0])
    for path in (*root.glob("*/*"), *root.glob("*"), root):
        path.unlink() if path.is_file() else path.rmdir()
    spool.append([b"a" * 2000])
    now[0] = 10.0
    spool.append([b"second"])
    assert on_disk(root, b"second")
    assert spool.rest() == [b"a" * 2000, b"second"]
    spool.close()


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
def test_when_files_are_synced(root, fsync, monkeypatch):
    synced = threading.Event()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (real(file), synced.set()))
    spool = CountingSpool(root, fsync=fsync)
    spool.append([b"a"])
    assert synced.is_set() or fsync != "always"
    assert synced.wait(10 if fsync == "interval" else 0) == (fsync != "never")
    spool.close()


def test_a_message_wakes_the_reader(root):
    spool = CountingSpool(root)
    threading.Timer(0.1, spool.append, [[b"a"]]).start()
    start = time.monotonic()
    assert spool.read(1, wait_s=30) == [(0, b"a")]
    assert time.monotonic() - start < 20
    spool.close()


def test_messages_larger_than_a_segment(root):
    spool = CountingSpool(root, cap=64 * MB)
    sent = [os.urandom(3 * MB), b"small", os.urandom(9 * MB), b"last"]
    for message in sent:
        spool.append([message])
    spool.kill()
    successor = CountingSpool(root, cap=64 * MB)
    assert successor.rest() == sent
    successor.close()
