"""The spool of one process: caps, memory while the disk fails, syncing, waking."""

import os
import resource
import signal
import threading
import time

import pytest

from tests.support.kafka.counting_spool import MB, CountingSpool, on_disk, segments


@pytest.fixture
def root(tmp_path):
    return tmp_path / "spool"


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
