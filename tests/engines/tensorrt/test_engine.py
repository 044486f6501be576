"""Memory, batch sizes, graphs and order of a plan that runs on the host; test_engine_gpu has a real one."""

import functools
import logging
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.device.cuda_graphs import CudaGraphs  # noqa: E402
from engines.device.devices import thread_stream  # noqa: E402
from engines.errors import EngineError  # noqa: E402
from engines.tensorrt import engine as tensorrt  # noqa: E402
from engines.tensorrt.engine import TensorrtEngine  # noqa: E402
from tests.support.devices.toy_tensorrt import Machine  # noqa: E402
from tests.support.devices.toy_world import World  # noqa: E402


def opened(tmp_path, machine, device="cpu"):
    return TensorrtEngine(machine.flavour(), b"plan", tmp_path / "kept.kernels", name="toy", device=device)


def items(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 2, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize(
    ("count", "ran"),
    [
        (0, []),
        (1, [2]),
        (2, [2]),
        (3, [4]),
        (5, [8]),
        (9, [12]),
        (12, [12]),
        (13, [12, 2]),
        (30, [12, 12, 8]),
    ],
)
def test_batches_of_any_size_from_host_and_device(tmp_path, kind, count, ran):
    machine = Machine(smallest=2, largest=12)
    found = opened(tmp_path, machine).run({"x": kind(items(count))})["double"]
    assert type(found) is type(kind(items(1)))
    np.testing.assert_array_equal(np.asarray(found), 2 * items(count))
    assert found.shape == (count, 2, 3)
    assert [rows for rows, _ in machine.runs] == ran


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_outputs_whose_size_depends_on_their_content(tmp_path, kind):
    machine = Machine(largest=4, sized=True)
    engine, given = opened(tmp_path, machine), items(6)
    for _ in range(3):
        found = engine.run({"x": kind(given)})["above"]
        for item, rows in zip(given, np.asarray(found), strict=True):
            expected = item[item[:, 0] > 0]
            np.testing.assert_array_equal(rows[: len(expected)], expected)
            assert not rows[len(expected) :].any()
    assert engine.run({"x": kind(given[:0])})["above"].shape == (0, 0, 3)


def test_host_outputs_are_copies_and_device_outputs_hold_until_the_next_run(tmp_path):
    engine = opened(tmp_path, Machine())
    host = engine.run({"x": items(3)})["double"]
    device = engine.run({"x": torch.from_numpy(items(3))})["double"]
    engine.run({"x": items(4, seed=1)})
    np.testing.assert_array_equal(host, 2 * items(3))
    np.testing.assert_array_equal(device.numpy(), 2 * items(4, seed=1)[:3])
    parts = opened(tmp_path, Machine(largest=2)).run({"x": torch.from_numpy(items(5))})["double"]
    np.testing.assert_array_equal(parts.numpy(), 2 * items(5))


def test_each_batch_size_is_set_up_once_and_keeps_its_memory(tmp_path):
    machine = Machine()
    engine = opened(tmp_path, machine)
    places = [
        engine.run({"x": torch.from_numpy(items(count))})["double"].data_ptr() for count in (3, 8, 4, 3, 7)
    ]
    assert machine.contexts == [4, 8]
    assert places[0] == places[2] == places[3] != places[1] == places[4]


def test_out_of_memory_halves_the_batch_and_the_call_continues(tmp_path, caplog):
    machine = Machine()
    engine = opened(tmp_path, machine)
    engine.run({"x": items(40)})
    machine.room = 16
    with caplog.at_level(logging.WARNING, "posestream.engine"):
        for kind in (np.asarray, torch.from_numpy):
            found = engine.run({"x": kind(items(40))})["double"]
            np.testing.assert_array_equal(np.asarray(found), 2 * items(40))
    assert [rows for rows, _ in machine.runs] == [64, 16, 16, 8, 16, 16, 8]
    assert engine.halved == len(caplog.messages) == 2
    assert "toy: out of device memory for a batch of 64, runs at most 32 at once" in caplog.messages[0]
    assert "OutOfMemory" in caplog.messages[0]
    machine.room = 0
    with pytest.raises(EngineError, match="toy: out of device memory even for a batch of 1 "):
        engine.run({"x": items(3)})


def test_out_of_memory_while_a_batch_size_is_set_up(tmp_path, monkeypatch):
    engine = opened(tmp_path, Machine())
    given = engine._device.empty

    def empty(size, stream):
        if size > 1000:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes")
        return given(size, stream)

    monkeypatch.setattr(engine._device, "empty", empty)
    np.testing.assert_array_equal(engine.run({"x": items(40)})["double"], 2 * items(40))
    assert engine.halved == 3  # 64, 32 and 16 rows of 24 bytes, and of 100 to work in


class Replays:
    """Records the queued work, and queues it again on any stream."""

    def __init__(self, machine, enqueue, stream):
        self.machine, self.work, runs = machine, [], list(machine.runs)
        launch, machine.launch = machine.launch, lambda *work: self.work.append(work)
        enqueue(stream)
        self.rows = machine.runs[-1][0]
        machine.launch, machine.runs = launch, runs

    def launch(self, stream):
        self.machine.runs.append((self.rows, stream.handle))
        for kernel, _, reads, writes in self.work:
            self.machine.launch(kernel, stream.handle, reads, writes)


def with_graphs(monkeypatch, machine):
    def graphs(name, device, *, enabled):
        return CudaGraphs(name, device, enabled=True, record=functools.partial(Replays, machine))

    monkeypatch.setattr(tensorrt, "CudaGraphs", graphs)


def test_each_batch_size_is_recorded_once_with_the_same_results(tmp_path, monkeypatch):
    machine = Machine(largest=8)
    with_graphs(monkeypatch, machine)
    engine = opened(tmp_path, machine)
    for seed, count in enumerate([1, 1, 3, 1, 4, 8, 3, 2]):
        for kind in (np.asarray, torch.from_numpy):
            found = engine.run({"x": kind(items(count, seed))})["double"]
            np.testing.assert_array_equal(np.asarray(found), 2 * items(count, seed))
    assert engine._graphs.recorded.keys() == {1, 2, 4, 8}
    engine._shrink(4)  # a graph is dropped with its memory
    assert engine._graphs.recorded.keys() == {1, 2, 4}
    np.testing.assert_array_equal(engine.run({"x": items(8)})["double"], 2 * items(8))
    assert machine.contexts == [1, 4, 8, 2, 8]


def test_outputs_sized_by_content_are_never_recorded(tmp_path, monkeypatch):
    machine = Machine(sized=True)
    with_graphs(monkeypatch, machine)
    engine = opened(tmp_path, machine)
    for _ in range(3):
        engine.run({"x": items(2)})
    assert engine._graphs.recorded == {}


def test_a_refused_plan_and_a_closed_engine(tmp_path):
    with pytest.raises(EngineError, match="tensorrt refuses the plan: bad magic"):
        TensorrtEngine(Machine().flavour(), b"another", tmp_path / "kept.kernels", device="cpu")
    engine = opened(tmp_path, Machine())
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="was closed"):
        engine.run({"x": items(1)})


def test_a_missing_gpu_is_refused(tmp_path):
    with pytest.raises(EngineError, match=r"no device cuda:99"):
        opened(tmp_path, Machine(), device="cuda:99")


@pytest.fixture(params=range(5))
def toy(request, monkeypatch):
    """A device whose streams run late and report unordered access, and a machine that works on it."""
    world, machine = World(request.param), Machine(largest=8)
    device = world.device("cpu:7")  # its tensors are the CPU's, but its name differs
    monkeypatch.setattr(tensorrt, "open_device", lambda name: device)

    def launch(kernel, handle, reads, writes):
        reads, writes = ([world.handed_out[address].bytes for address in some] for some in (reads, writes))
        stream = next(stream for stream in device.streams if stream.handle == handle)
        stream.launch(lambda *of: kernel(*(one.data_ptr() for one in of)), reads=reads, writes=writes)

    machine.launch = launch
    with_graphs(monkeypatch, machine)
    return world, device, machine


def on_toy(device, array):
    """A tensor that this thread's stream has uploaded."""
    stream = thread_stream(device)
    tensor = device.empty(array.nbytes, stream).view(torch.float32).view(array.shape)
    page_locked = device.pinned(array.nbytes).view(torch.float32).view(array.shape)
    page_locked.copy_(torch.from_numpy(array))
    device.copy(tensor, page_locked, stream)
    return tensor


def reduced(device, tensor):
    """A small result of the outputs on the same stream, as a codec makes it; the outputs may be overwritten soon."""
    stream = thread_stream(device)
    out = device.empty(4 * len(tensor), stream).view(torch.float32)
    stream.launch(lambda of, to: to.copy_(of.sum((1, 2))), reads=[tensor], writes=[out])
    return out


def test_runs_on_the_device_are_ordered_without_waiting(tmp_path, toy):
    world, device, machine = toy
    engine = opened(tmp_path, machine)
    sums = []
    for seed in range(12):
        given = on_toy(device, items(1 + seed % 8, seed))
        sums.append(reduced(device, engine.run({"x": given})["double"]))
        del given
    assert [who for who, _ in world.log if who == "host"] == []
    found = device.download({str(n): tensor for n, tensor in enumerate(sums)}, thread_stream(device))
    for seed, name in enumerate(found):
        np.testing.assert_allclose(found[name], 2 * items(1 + seed % 8, seed).sum((1, 2)), atol=1e-5)
    assert world.races == []
    assert {handle for _, handle in machine.runs} == {thread_stream(device).handle}


def test_host_and_device_batches_in_turn(tmp_path, toy):
    world, device, machine = toy
    engine = opened(tmp_path, machine)
    for seed in range(8):
        host = engine.run({"x": items(11, seed)})["double"]  # in two parts
        np.testing.assert_array_equal(host, 2 * items(11, seed))
        small = reduced(device, engine.run({"x": on_toy(device, items(3, seed))})["double"])
        found = device.download({"it": small}, thread_stream(device))["it"]
        np.testing.assert_allclose(found, 2 * items(3, seed).sum((1, 2)), atol=1e-5)
    assert world.races == []


def test_engines_of_two_threads_have_two_streams(tmp_path, toy):
    world, device, machine = toy
    handles, wrong = set(), []

    def work(seed):
        engine = opened(tmp_path, machine)
        handles.add(thread_stream(device).handle)
        for n in range(6):
            found = engine.run({"x": items(5, seed + n)})["double"]
            if not np.array_equal(found, 2 * items(5, seed + n)):
                wrong.append((seed, n))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, world.races, len(handles)) == ([], [], 2)
    assert {handle for _, handle in machine.runs} == handles


def test_an_engine_used_by_another_thread_stays_ordered(tmp_path, toy):
    """An engine is loaded and verified in the main thread and used in another."""
    world, device, machine = toy
    engine = opened(tmp_path, machine)
    found = []

    def work(seed):
        tensor = reduced(device, engine.run({"x": on_toy(device, items(4, seed))})["double"])
        found.append((seed, tensor, thread_stream(device).record()))

    for seed in range(6):
        thread = threading.Thread(target=work, args=(seed,))
        thread.start()
        thread.join()
    for seed, tensor, event in found:
        thread_stream(device).wait(event)
        sums = device.download({"it": tensor}, thread_stream(device))["it"]
        np.testing.assert_allclose(sums, 2 * items(4, seed).sum((1, 2)), atol=1e-5)
    assert world.races == []
    assert len({handle for _, handle in machine.runs}) == 6


def test_nothing_is_allocated_after_all_batch_sizes_have_run(tmp_path, toy):
    _, device, machine = toy
    engine = opened(tmp_path, machine)
    for _ in range(2):
        for count in range(1, 9):
            engine.run({"x": items(count)})
    before = device.allocated, device.page_locked
    for count in range(1, 9):
        engine.run({"x": items(count)})
    assert (device.allocated, device.page_locked) == before
