import threading
import time

import pytest
from recording_toys import graph

from pipeline.make_run import make_run
from tools.profiling.recording.recorded import read_recorded
from tools.profiling.recording.recorder import Recorder
from tools.profiling.recording.stack_sampler import collapsed
from tools.profiling.recording.thread_state import ThreadState

pytestmark = pytest.mark.alone


def record(folder, checked, frames):
    run = make_run(checked, {"a": frames}, tracer=Recorder(folder, sample_hz=200))
    run.start()
    return run.finish(), read_recorded(folder)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """A stage that computes, one that sleeps, one that waits in the standard library, one that does nothing.

    15 ms is longer than the 5 ms after which a computing thread must release the interpreter lock.
    """
    checked = graph(compute={"op": "compute", "ms": 15}, sleeps={"op": "slow", "ms": 15}, waits={"op": "waits", "ms": 15},
                    same={"op": "same"})  # fmt: skip
    return record(tmp_path_factory.mktemp("rec"), checked, "100")


def test_stacks_are_weighted_by_processor_time(sampled):
    stats, found = sampled
    compute = {stack: ms for stack, ms in found.stacks.items() if stack.startswith("compute;")}
    assert sum(compute.values()) == pytest.approx(stats.stages[1].cpu * stats.seconds * 1e3, rel=0.2)
    inside = sum(
        ms for stack, ms in compute.items() if "Compute.process (tests/support/recording_toys.py:" in stack
    )
    assert inside > 0.9 * sum(compute.values())
    most = max(compute, key=lambda stack: compute[stack]).split(";")
    assert most[1].startswith("Thread._bootstrap (threading.py:")
    assert sum("Stage._process_all (pipeline/stages/stage.py:" in frame for frame in most) == 1


def test_waiting_threads_have_no_stacks(sampled):
    _, found = sampled
    computed = sum(ms for stack, ms in found.stacks.items() if stack.startswith("compute;"))
    for stage in ("sleeps", "waits", "same", "numbers"):
        assert sum(ms for stack, ms in found.stacks.items() if stack.startswith(f"{stage};")) < 0.3 * computed
    assert not any("wait (threading.py" in stack for stack in found.stacks)


@pytest.mark.parametrize(
    ("stage", "function", "line"),
    [
        ("sleeps", "Slow.process", "time.sleep(self.ms / 1e3)"),
        ("waits", "Waits.process", "self.never.wait(self.ms / 1e3)"),
    ],
)
def test_where_a_stage_stands_still(sampled, stage, function, line):
    stats, found = sampled
    places = {place: ms for place, ms in found.standing.items() if place.stage == stage}
    place = max(places, key=lambda place: places[place])
    assert place.where.startswith("tests/")
    assert place.where.endswith(f" in {function}")
    assert place.line == line
    busy_ms = next(s.busy for s in stats.stages if s.name == stage) * stats.seconds * 1e3
    assert 0.4 * 100 * 15 < places[place] < 1.2 * busy_ms  # fewer when other programs keep the machine busy


def test_stages_that_compute_or_do_nothing_do_not_stand_still(sampled):
    stats, found = sampled
    for stage in ("compute", "same", "numbers"):
        still = sum(ms for place, ms in found.standing.items() if place.stage == stage)
        assert still < 0.15 * stats.seconds * 1e3


def test_the_wait_for_the_interpreter_lock(tmp_path):
    _, free = record(tmp_path / "free", graph(slow={"op": "slow", "ms": 300}), "3")
    _, taken = record(tmp_path / "taken", graph(burns={"op": "compute", "ms": 300}), "3")
    assert taken.lock_wait_ms > 2  # a thread that computes in Python releases the lock every 5 ms
    assert free.lock_wait_ms < taken.lock_wait_ms / 2


def test_collapsed_text():
    assert (
        collapsed({"pose;run (a.py:3);b": 1.5, "detect;x": 0.25})
        == "detect;x 250\npose;run (a.py:3);b 1500\n"
    )


def test_the_processor_time_of_another_thread():
    go, states = threading.Event(), []
    thread = threading.Thread(target=lambda: (states.append(ThreadState.of_this_thread("s", 0)), go.wait(60)))
    thread.start()
    while not states:
        time.sleep(0.001)
    try:
        if ThreadState.of(thread).clock is None:
            pytest.skip("only known on Linux")
        assert ThreadState.of(thread).clock == states[0].clock  # computed by us, and by the C library
        deadline = time.monotonic() + 20
        while states[0].ready and time.monotonic() < deadline:
            time.sleep(0.001)
        assert not states[0].ready  # it waits
    finally:
        go.set()
        thread.join()
    assert ThreadState.of(None).clock is None

    def ask_until_it_is_gone():  # the kernel takes a moment to forget a thread that was joined
        while time.monotonic() < deadline:
            time.clock_gettime_ns(states[0].clock)

    with pytest.raises(OSError, match=r"."):
        ask_until_it_is_gone()
