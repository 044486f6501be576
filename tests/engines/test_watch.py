import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from toy_models import contract, save

from engines.backends import cuda
from engines.backends.base import TensorSpec, put
from engines.backends.cuda import DeviceClock, Stream
from engines.errors import EngineError
from engines.load import load_engine
from engines.watch import Loaded, watch, watched

LOADED = Loaded("toy", "toy.onnx", "onnxruntime", 2)
BATCH = {"x": np.zeros((3, 4), np.float32)}


class Doubles:
    """An engine."""

    inputs = outputs = {"x": TensorSpec((-1, 4), np.dtype(np.float32))}  # noqa: RUF012
    closed = False

    def run(self, inputs):
        if inputs["x"].shape[1] != 4:
            raise EngineError("does not fit")
        return {"x": inputs["x"] * 2, "more": inputs["x"]}

    def close(self):
        self.closed = True


class OnDevice(Doubles):
    """… of a device that tells its times."""

    device_ns = None
    timed = False

    def time_device(self):
        self.timed = True

    def run(self, inputs):
        self.device_ns = (17, 42)
        return super().run(inputs)

    def run_device(self, inputs, after=None):
        return inputs, f"after {after}"


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
    assert call[3:] == (0, 3, 48, 96, None, None)
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
    assert [call[3:] for call in told.calls] == [(0, 2, 40, 0, None, None)]


def test_what_a_device_did():
    told, engine = Told(), OnDevice()
    with watch(told):
        found = watched(engine, LOADED)
        assert engine.timed
        found.run(BATCH)
        assert found.run_device(BATCH, "that") == (BATCH, "after that")
    assert [call[3:] for call in told.calls] == [(0, 3, 48, 96, (17, 42), 144), (0, 3, 48, 48, None, 0)]
    assert not hasattr(watched(Doubles(), LOADED), "run_device")


class Slow:
    """Items that take 10 ms to be made."""

    shape, dtype, nbytes = (2, 4), np.dtype(np.float32), 32

    def __len__(self):
        return 2

    def write(self, out, first=0):
        time.sleep(0.01)
        out[...] = 7

    def __array__(self, dtype=None, copy=None):
        self.write(batch := np.empty(self.shape, self.dtype))
        return batch


@pytest.mark.parametrize("take", [np.asarray, lambda items: put(items, np.empty(items.shape)) or items])
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


@pytest.mark.parametrize(
    ("device", "copied"), [("cpu", None), ("cuda", 144), (SimpleNamespace(type="cuda"), 144)]
)
def test_what_is_copied_to_a_device_that_does_not_tell_times(device, copied):
    told, engine = Told(), Doubles()
    engine.device = device
    with watch(told):
        watched(engine, LOADED).run(BATCH)
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
    """A CUDA runtime whose device has a clock of its own, which gains 100 µs a second."""

    cudaStreamNonBlocking = 1  # noqa: N815

    def __init__(self):
        self.host_ns = 1_000_000
        self.events = []
        self.running = 0

    def monotonic_ns(self):
        self.host_ns += 100
        return self.host_ns

    def device_ns(self):
        return 5_000_000_000 + self.host_ns * 1.0001

    def cudaStreamCreateWithFlags(self, flags):  # noqa: N802
        return 0, 1

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        return (0,)

    def cudaEventCreate(self):  # noqa: N802
        self.events.append(0.0)
        self.running += 1
        return 0, len(self.events) - 1

    def cudaEventRecord(self, event, stream):  # noqa: N802
        self.host_ns += 2_000
        self.events[event] = self.device_ns()
        return (0,)

    def cudaEventSynchronize(self, event):  # noqa: N802
        self.host_ns += 2_000
        return (0,)

    def cudaEventElapsedTime(self, start, end):  # noqa: N802
        return 0, np.float32((self.events[end] - self.events[start]) / 1e6)

    def cudaEventDestroy(self, event):  # noqa: N802
        self.running -= 1
        return (0,)


def test_moments_of_the_device_by_the_clock_of_the_host(monkeypatch):
    device = Device()
    monkeypatch.setattr(cuda, "runtime", lambda: device)
    clock = DeviceClock(Stream(), device.monotonic_ns)
    apart = []
    for _ in range(60):
        device.host_ns += 1_000_000_000
        clock.begin()
        began_ns = device.host_ns
        device.host_ns += 30_000_000
        clock.end()
        ended_ns = device.host_ns
        device.host_ns += 50_000
        begin_ns, end_ns = clock.measured()
        assert end_ns - begin_ns == pytest.approx(ended_ns - began_ns, abs=5_000)
        apart.append(begin_ns - began_ns)
    assert max(apart) < 700_000  # what is gained in 6 s, and not in 60
    assert min(apart) > 95_000  # the drift of this one second is seen: anchors are not taken all the time
    clock.close()
    assert device.running == 0
