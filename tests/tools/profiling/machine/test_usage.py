"""What this process and its children use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import count

import pytest

from tools.profiling.machine.usage import UseSampler

pytestmark = pytest.mark.alone

BURNS = "import time; held = bytearray(60_000_000); print(1, flush=True)\nwhile True: sum(range(1000))"


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", BURNS], stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def test_child_processes_count(child):
    sampler = UseSampler(lambda: 0, every_s=0.1)
    assert child.stdout.readline()  # now it computes, and holds its memory
    sampler.start()
    time.sleep(1.0)
    use = sampler.stop()
    assert use.cores > 0.05  # this process alone uses next to nothing
    assert use.cores_all is None or use.cores_all > 0.9 * use.cores
    assert use.memory_mb > use.memory_before_mb + 50
    assert 3 <= len(use.moments) <= 12
    assert use.moments[-1].at_s == pytest.approx(1.0, abs=0.8)
    assert use.gpus == []


def test_each_moment_has_its_frame_rate():
    frames = count(step=10)
    sampler = UseSampler(lambda: next(frames), every_s=0.1)
    sampler.start()
    time.sleep(0.55)
    moments = sampler.stop().moments
    assert len(moments) >= 2
    passed = [
        now.at_s - before for now, before in zip(moments, [0.0, *(m.at_s for m in moments)], strict=False)
    ]
    assert [moment.fps * s for moment, s in zip(moments, passed, strict=True)] == pytest.approx(
        [10] * len(moments)
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports it")
def test_threads_that_wait_for_a_core_are_counted():
    burners = [subprocess.Popen([sys.executable, "-c", BURNS], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for burner in burners:  # both want the same core
            os.sched_setaffinity(burner.pid, {min(os.sched_getaffinity(0))})
            burner.stdout.readline()
        sampler = UseSampler(lambda: 0, every_s=0.1)
        sampler.start()
        time.sleep(1.0)
        assert sampler.stop().starved > 0.5
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
