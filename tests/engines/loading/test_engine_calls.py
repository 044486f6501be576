import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest

from engines.backends.base import TensorSpec, put
from engines.device.clock import DeviceClock
from engines.errors import EngineError
from engines.loading.engine_calls import Loaded, watch, watched
from engines.loading.load import load_engine
from tests.support.models.toy_models import contract, save

LOADED = Loaded("toy", "toy.onnx", "onnxruntime", 2)
BATCH = {"x": np.zeros((3, 4), np.float32)}


class Doubles:
    """An engine that doubles its input."""

    inputs = outputs = {"x": TensorSpec((-1, 4), np.dtype(np.float32))}  # noqa: RUF012
    device, halved = "cpu", 0
    closed = False

    def run(self, inputs):
        if inputs["x"].shape[1] != 4:
            raise EngineError("does not fit")
        return {"x": inputs["x"] * 2, "more": inputs["x"]}

    def close(self):
        self.closed = True


class OnDevice(Doubles):
    """An engine on a device that reports the times of runs that have ended."""

    device, halved = "cuda:0", 3
    timed, ended = False, ()

    def time_device(self):
        self.timed = True

    def device_times(self):
        times, self.ended = self.ended, ()
        return times


class Recorder:
    def __init__(self):
        self.entered, self.calls, self.threads = [], [], set()

    def engine_entered(self, engine):
        self.entered.append(engine)
        self.threads.add(threading.current_thread())

    def engine_left(self, call):
        self.calls.append(call)


def test_without_a_watcher_the_engine_is_not_wrapped():
    engine = Doubles()
    assert watched(engine, LOADED) is engine


def test_a_call_is_reported_with_times_items_and_bytes():
    recorder, engine = Recorder(), Doubles()
    with watch(recorder):
        found = watched(engine, LOADED)
        results = []
        thread = threading.Thread(target=lambda: results.append(found.run(BATCH)))
        thread.start()
        thread.join()
    assert results[0].keys() == {"x", "more"}
    assert (found.inputs, found.outputs) == (engine.inputs, engine.outputs)
    (call,) = recorder.calls
    assert recorder.entered == [LOADED] == [call.engine]
    assert recorder.threads == {thread}
    assert 0 < call.start_ns <= call.end_ns
    assert call[3:] == (0, 3, 48, 96, (), None)
    found.run(BATCH)
    assert len(recorder.calls) == 1  # the second call was made after watching ended
    found.close()
    assert engine.closed


def test_two_watchers_are_independent():
    first, second = Recorder(), Recorder()
    with watch(first):
        with watch(second):
            found = watched(Doubles(), LOADED)
            found.run(BATCH)
        found.run(BATCH)
    assert (len(first.calls), len(second.calls)) == (2, 1)


def test_a_call_that_fails_is_reported_too():
    recorder = Recorder()
    with watch(recorder):
        found = watched(Doubles(), LOADED)
        with pytest.raises(EngineError, match="does not fit"):
            found.run({"x": np.zeros((2, 5), np.float32)})
    assert [call[3:] for call in recorder.calls] == [(0, 2, 40, 0, (), None)]


def test_a_watched_engine_behaves_like_the_engine():
    engine = OnDevice()
    with watch(Recorder()):
        found = watched(engine, LOADED)
    assert (found.inputs, found.outputs, found.device) == (engine.inputs, engine.outputs, "cuda:0")
    assert found.halved == 3


def test_device_times_are_reported_once_they_are_known():
    recorder, engine = Recorder(), OnDevice()
    with watch(recorder):
        found = watched(engine, LOADED)
        assert engine.timed
        for engine.ended in [((17, 42),), (), ((50, 60), (70, 80))]:
            found.run(BATCH)
    assert [call.device_ns for call in recorder.calls] == [((17, 42),), (), ((50, 60), (70, 80))]


class Slow:
    """Items that take 10 ms to be made."""

    shape, dtype, nbytes = (2, 4), np.dtype(np.float32), 32
    device = None

    def __len__(self):
        return 2

    def write(self, out, first=0):
        time.sleep(0.01)
        out[...] = 7

    def __array__(self, dtype=None, copy=None):
        self.write(batch := np.empty(self.shape, self.dtype))
        return batch

    def write_on_device(self, out, stream, first=0):
        self.write(out, first)


WAYS = [
    np.asarray,
    lambda items: put(items, np.empty(items.shape)) or items,
    lambda items: items.write_on_device(np.empty(items.shape), None) or items,
]


@pytest.mark.parametrize("take", WAYS)
def test_the_time_to_make_items_is_measured_separately(take):
    class Takes(Doubles):
        def run(self, inputs):
            take(inputs["x"])
            return inputs

    recorder = Recorder()
    with watch(recorder):
        watched(Takes(), LOADED).run({"x": Slow()})
    (call,) = recorder.calls
    assert 10e6 <= call.making_ns <= call.end_ns - call.start_ns
    assert (call.items, call.bytes_in) == (2, 32)


class Placed:
    """Items (3, 4) that lie on a device."""

    shape, dtype, nbytes = (3, 4), np.dtype(np.float32), 48

    def __init__(self, device):
        self.device = device

    def __len__(self):
        return 3


@pytest.mark.parametrize(
    ("engine", "items", "outputs", "copied"),
    [
        ("cpu", None, None, None),
        ("cpu", "cpu", "cpu", None),
        ("cpu", "cuda:0", None, 48),  # downloaded, to run on the host
        ("cuda:1", None, None, 48 + 80),
        ("cuda:1", "cuda:1", "cuda:1", 0),
        ("cuda:1", "cuda:0", "cuda:1", 0),  # from GPU to GPU
        # ONNX Runtime: download and upload the input, download the output.
        ("cuda:1", "cuda:0", None, 48 + 48 + 80),
    ],
)
def test_what_is_copied_between_host_and_gpu(engine, items, outputs, copied):
    class Gives(Doubles):
        device = engine

        def run(self, inputs):
            return {"y": np.zeros((5, 4), np.float32) if outputs is None else Placed(outputs)}

    recorder = Recorder()
    with watch(recorder):
        watched(Gives(), LOADED).run(BATCH if items is None else {"x": Placed(items)})
    assert recorder.calls[0].copied == copied


def test_only_a_model_that_is_loaded_while_watched_is_reported(tmp_path):
    recorder, model = Recorder(), contract("simcc")
    path = save(model, tmp_path / "toy.onnx")
    width, height = model.input.size
    batch = {model.input.name: np.zeros((2, 3, height, width), np.float32)}
    before = load_engine(model, path=path)
    with watch(recorder):
        before.run(batch)
        engine = load_engine(model, threads=2, path=path)
        engine.run(batch)
    assert [call.engine for call in recorder.calls] == [Loaded(model.name, "toy.onnx", "onnxruntime", 2)]
    assert recorder.calls[0].bytes_in == batch[model.input.name].nbytes


class Device:
    """A device whose clock gains 100 µs a second, and whose work ends when the test says so."""

    def __init__(self):
        self.host_ns = 1_000_000
        self.waited = 0

    def monotonic_ns(self):
        self.host_ns += 100
        return self.host_ns

    def new_stream(self):
        return self

    def use(self):
        return nullcontext()

    def event(self):
        return Event(self)


class Event:
    def __init__(self, device):
        self.device, self.at_ns, self.ended = device, None, True

    def record(self):
        self.device.host_ns += 2_000
        self.at_ns = 5_000_000_000 + self.device.host_ns * 1.0001

    def synchronize(self):
        self.device.host_ns += 2_000
        self.device.waited += 1

    def query(self):
        return self.ended

    def elapsed_time(self, later):
        return float(np.float32((later.at_ns - self.at_ns) / 1e6))


def test_device_times_on_the_clock_of_the_host():
    device = Device()
    clock = DeviceClock(device, device.event, device.monotonic_ns)
    apart = []
    for _ in range(60):
        device.host_ns += 1_000_000_000
        clock.begin(device)
        began_ns = device.host_ns
        device.host_ns += 30_000_000
        clock.end(device)
        ended_ns = device.host_ns
        device.host_ns += 50_000
        ((begin_ns, end_ns),) = clock.done()
        assert end_ns - begin_ns == pytest.approx(ended_ns - began_ns, abs=5_000)
        apart.append(begin_ns - began_ns)
    assert max(apart) < 700_000  # the drift of 6 s, not of 60 s
    assert min(apart) > -5_000
    assert max(apart) > 95_000  # the drift of some seconds shows: anchors are not taken at every run
    assert device.waited <= 5 * (1 + 60 // 5)  # only for anchors


def test_running_work_is_reported_after_it_has_ended():
    device, events = Device(), []

    def event():
        events.append(device.event())
        return events[-1]

    clock = DeviceClock(device, event, device.monotonic_ns)
    for _ in range(2):
        clock.begin(device)
        clock.end(device)
    first, second = events[-3], events[-1]
    first.ended = second.ended = False
    device.host_ns += 9_000_000_000  # a new anchor is taken while they run
    clock.begin(device)
    clock.end(device)
    assert clock.done() == ()
    first.ended = True
    ((begin_ns, end_ns),) = clock.done()
    assert 1_000_000 < begin_ns < end_ns < 2_000_000
    second.ended = True
    assert len(clock.done()) == 2
    assert clock.done() == ()
