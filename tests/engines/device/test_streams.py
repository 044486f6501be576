"""Each thread has its own stream, downloads are exact, and the test devices detect accesses out of order."""

from __future__ import annotations

import ast
import threading
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.device.devices import open_device, thread_stream  # noqa: E402
from engines.errors import EngineError  # noqa: E402
from tests.support.devices.toy_device import Race  # noqa: E402
from tests.support.devices.toy_world import World  # noqa: E402

ENGINES = Path(__file__).parents[3] / "engines"
DEVICE_FILES = sorted(
    path for files in ("device/*.py", "kernels/*.py", "codecs/device_*.py") for path in ENGINES.glob(files)
)


def in_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:", "mps", "cpu:1", ""])
def test_unknown_devices_are_refused(name):
    with pytest.raises(EngineError, match="expected cpu, cuda, or cuda:1"):
        open_device(name)


def test_the_error_names_a_missing_gpu():
    with pytest.raises(EngineError, match=r"no device cuda:99, .* or set device: cpu"):
        open_device("cuda:99")


def test_a_name_always_gives_the_same_device():
    assert open_device("cpu") is open_device("cpu")


def test_each_thread_has_a_stream_of_its_own():
    device = World().device()
    mine = thread_stream(device)
    assert thread_stream(device) is mine
    theirs = in_thread(lambda: (thread_stream(device), thread_stream(device)))
    assert theirs[0] is theirs[1] is not mine


def test_a_thread_has_a_stream_on_each_device():
    world = World()
    near, far = world.device("toy:0"), world.device("toy:1")
    assert thread_stream(near).device is near
    assert thread_stream(far).device is far
    assert world.current() == {near: thread_stream(near), far: thread_stream(far)}


TENSORS = {
    "keypoints": torch.arange(3 * 17 * 2, dtype=torch.float32).reshape(3, 17, 2),
    "half": torch.tensor([0.5, -2.0], dtype=torch.float16),
    "kept": torch.tensor([[True, False, True]]),
    "none": torch.empty((0, 4)),
    "one": torch.tensor(7, dtype=torch.int64),
    "transposed": torch.arange(6, dtype=torch.int32).reshape(2, 3).T,
}


def test_downloads_equal_the_tensors_on_the_device():
    device = open_device("cpu")
    found = device.download(TENSORS, thread_stream(device))
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
        assert found[name].dtype == tensor.numpy().dtype


def test_a_later_download_does_not_change_an_earlier_one():
    device = open_device("cpu")
    first = device.download({"a": torch.zeros(100)}, thread_stream(device))["a"]
    device.download({"a": torch.ones(100)}, thread_stream(device))
    assert not first.any()


def test_downloads_of_many_sizes_share_page_locked_memory():
    device = World().device()
    stream = device.new_stream()
    for size in (4000, 100, 3000, 1, 4000):
        device.download({"a": device.empty(size, stream)}, stream)
    assert device.page_locked == 1


def test_a_download_waits_for_one_event():
    world = World()
    device = world.device()
    stream, other = device.new_stream(), device.new_stream()
    tensors = {name: device.empty(64, stream) for name in "abc"}
    other.launch(lambda: pytest.fail("the download does not need this"))
    stream.world._eager = 0
    for value, tensor in enumerate(tensors.values()):
        stream.launch(lambda to, value=value: to.fill_(value), writes=[tensor])
    found = device.download(tensors, stream)
    assert [array[0] for array in found.values()] == [0, 1, 2]
    assert [who for who, _ in world.log] == ["host"]


def test_work_is_ordered_by_events_alone():
    device = World().device()
    writer, reader = device.new_stream(), device.new_stream()
    memory = device.empty(8, writer)
    writer.launch(lambda to: to.fill_(1), writes=[memory])
    with pytest.raises(Race, match="may read memory that is still being written"):
        reader.launch(lambda source: None, reads=[memory])
    reader.wait(writer.record())
    reader.launch(lambda source: None, reads=[memory])
    with pytest.raises(Race, match="may write memory that is still being read"):
        writer.launch(lambda to: to.fill_(2), writes=[memory])
    writer.wait(reader.record())
    writer.launch(lambda to: to.fill_(2), writes=[memory])


@pytest.mark.parametrize("kept", [True, False])
def test_memory_that_is_dropped_while_another_stream_reads_it(kept):
    world = World(eager=0)
    device = world.device()
    writer, reader = device.new_stream(), device.new_stream()
    memory = device.empty(8, writer)
    writer.launch(lambda to: to.fill_(1), writes=[memory])
    reader.wait(writer.record())
    reader.launch(lambda source: None, reads=[memory])
    if kept:
        reader.keep_alive(memory)
    del memory
    again = device.empty(8, writer)
    if kept:
        writer.launch(lambda to: to.fill_(2), writes=[again])
        assert device.allocated == 2
        return
    with pytest.raises(Race, match="may write memory that is still being read"):
        writer.launch(lambda to: to.fill_(2), writes=[again])


@pytest.mark.parametrize("path", DEVICE_FILES, ids=lambda path: path.name)
def test_nothing_waits_for_a_whole_device_or_for_the_current_stream(path):
    calls = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    waits = {"item", "cpu", "cudaDeviceSynchronize", "cudaStreamSynchronize", "current_stream"}
    assert not calls & waits
    if path.name not in ("cuda.py", "clock.py"):  # these wait for events of their own
        assert not calls & {"synchronize", "default_stream"}


@pytest.mark.gpu
def test_a_stream_of_a_gpu_is_not_the_default_stream_and_is_used_again():
    device = open_device("cuda")
    handle = in_thread(lambda: thread_stream(device).handle)
    assert handle not in (0, 1, 2)  # CUDA's handles for the default streams
    assert in_thread(lambda: thread_stream(device).handle) == handle
    assert in_thread(lambda: torch.cuda.current_stream().cuda_stream) != handle


@pytest.mark.gpu
def test_downloads_from_a_gpu():
    device = open_device("cuda")
    stream = thread_stream(device)
    with stream.use():
        found = device.download(
            {name: tensor.to(device.torch_device) for name, tensor in TENSORS.items()}, stream
        )
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


@pytest.mark.gpu
def test_a_stream_of_a_gpu_waits_for_another():
    device = open_device("cuda")
    writer, reader = device.new_stream(), device.new_stream()
    memory = device.empty(1 << 20, writer)
    with writer.use():
        memory.fill_(0)  # so that the kernel is loaded: CUDA may wait for the sleep before it loads one
        torch.cuda._sleep(50_000_000)
        memory.fill_(7)
    reader.wait(written := writer.record())
    assert not written.completed()
    found = device.download({"all": memory}, reader)["all"]
    assert (found == 7).all()
    assert written.completed()
