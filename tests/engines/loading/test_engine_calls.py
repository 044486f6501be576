import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
from toy_models import contract, save

from engines.backends.base import TensorSpec, put
from engines.device.clock import DeviceClock
from engines.errors import EngineError
from engines.loading.engine_calls import Loaded, watch, watched
from engines.loading.load import load_engine

LOADED = Loaded("toy", "toy.onnx", "onnxruntime", 2)
BATCH = {"x": np.zeros((3, 4), np.float32)}


class Doubles:
    """An engine."""

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
    """… of a device that tells its times, once a run has ended."""

    device, halved = "cuda:0", 3
    timed, ended = False, ()

    def time_device(self):
        self.timed = True

    def device_times(self):
        told, self.ended = self.ended, ()
        return told


class Told:
    def __init__(self):
        self.entered, self.calls, self.threads = [], [], set()

    def engine_entered(self, engine):
        self.entered.append(engine)
        self.threads.add(threading.current_thread())

    def engine_left(self, call):
        self.calls.append(call)


def test_nobody_watches():
    engine = Doubles()
    assert watched(engine, LOADED) is engine


def test_a_call_is_told_with_all_that_it_was():
    told, engine = Told(), Doubles()
    with watch(told):
        found = watched(engine, LOADED)
        results = []
        thread = threading.Thread(target=lambda: results.append(found.run(BATCH)))
        thread.start()
        thread.join()
    assert results[0].keys() == {"x", "more"}
    assert (found.inputs, found.outputs) == (engine.inputs, engine.outputs)
    (call,) = told.calls
    assert told.entered == [LOADED] == [call.engine]
    assert told.threads == {thread}
    assert 0 < call.start_ns <= call.end_ns
    assert call[3:] == (0, 3, 48, 96, (), None)
    found.run(BATCH)
    assert len(told.calls) == 1  # nobody watches any more
    found.close()
    assert engine.closed


def test_those_who_watch_do_not_know_of_each_other():
    first, second = Told(), Told()
    with watch(first):
        with watch(second):
            found = watched(Doubles(), LOADED)
            found.run(BATCH)
        found.run(BATCH)
    assert (len(first.calls), len(second.calls)) == (2, 1)


def test_a_call_that_fails_ends_too():
    told = Told()
    with watch(told):
        found = watched(Doubles(), LOADED)
        with pytest.raises(EngineError, match="does not fit"):
            found.run({"x": np.zeros((2, 5), np.float32)})
    assert [call[3:] for call in told.calls] == [(0, 2, 40, 0, (), None)]


def test_a_watched_engine_is_like_the_one_inside():
    engine = OnDevice()
    with watch(Told()):
        found = watched(engine, LOADED)
    assert (found.inputs, found.outputs, found.device) == (engine.inputs, engine.outputs, "cuda:0")
    assert found.halved == 3


def test_when_the_device_worked_is_told_once_it_is_known():
    told, engine = Told(), OnDevice()
    with watch(told):
        found = watched(engine, LOADED)
        assert engine.timed
        for engine.ended in [((17, 42),), (), ((50, 60), (70, 80))]:
            found.run(BATCH)
    assert [call.device_ns for call in told.calls] == [((17, 42),), (), ((50, 60), (70, 80))]


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
def test_items_that_are_made_in_the_call_are_no_part_of_its_time(take):
    class Takes(Doubles):
        def run(self, inputs):
            take(inputs["x"])
            return inputs

    told = Told()
    with watch(told):
        watched(Takes(), LOADED).run({"x": Slow()})
    (call,) = told.calls
    assert 10e6 <= call.making_ns <= call.end_ns - call.start_ns
    assert (call.items, call.bytes_in) == (2, 32)


class Lying:
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
        ("cpu", "cuda:0", None, 48),  # down, to run on the host
        ("cuda:1", None, None, 48 + 80),
        ("cuda:1", "cuda:1", "cuda:1", 0),
        ("cuda:1", "cuda:0", "cuda:1", 0),  # from GPU to GPU
        ("cuda:1", "cuda:0", None, 48 + 48 + 80),  # ONNX Runtime's: down, up again, and the results down
    ],
)
def test_what_is_copied_between_host_and_gpu(engine, items, outputs, copied):
    class Gives(Doubles):
        device = engine

        def run(self, inputs):
            return {"y": np.zeros((5, 4), np.float32) if outputs is None else Lying(outputs)}

    told = Told()
    with watch(told):
        watched(Gives(), LOADED).run(BATCH if items is None else {"x": Lying(items)})
    assert told.calls[0].copied == copied


def test_a_model_that_is_loaded_while_somebody_watches(tmp_path):
    told, model = Told(), contract("simcc")
    path = save(model, tmp_path / "toy.onnx")
    width, height = model.input.size
    batch = {model.input.name: np.zeros((2, 3, height, width), np.float32)}
    before = load_engine(model, path=path)
    with watch(told):
        before.run(batch)
        engine = load_engine(model, threads=2, path=path)
        engine.run(batch)
    assert [call.engine for call in told.calls] == [Loaded(model.name, "toy.onnx", "onnxruntime", 2)]
    assert told.calls[0].bytes_in == batch[model.input.name].nbytes


class Device:
    """A device with a clock of its own, which gains 100 µs a second, and work that ends when it is told to."""

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


def test_moments_of_the_device_by_the_clock_of_the_host():
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
    assert max(apart) < 700_000  # what is gained in 6 s, and not in 60
    assert min(apart) > -5_000
    assert max(apart) > 95_000  # the drift of some seconds is seen: anchors are not taken all the time
    assert device.waited <= 5 * (1 + 60 // 5)  # for anchors, and for no work


def test_work_that_still_runs_is_told_when_it_has_ended():
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
    device.host_ns += 9_000_000_000  # an anchor is taken anew while they run
    clock.begin(device)
    clock.end(device)
    assert clock.done() == ()
    first.ended = True
    ((begin_ns, end_ns),) = clock.done()
    assert 1_000_000 < begin_ns < end_ns < 2_000_000
    second.ended = True
    assert len(clock.done()) == 2
    assert clock.done() == ()
