"""The kernels compile for all supported GPUs, once, and their launches reach the driver."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from logging.handlers import QueueHandler
from queue import SimpleQueue

import numpy as np
import pytest

pytest.importorskip("torch")

from engines.device.cuda_bindings import call
from engines.errors import EngineError
from engines.images.model_input import Input
from engines.kernels import crop, nms, nvrtc
from engines.kernels.nvrtc import kernel, load_cubin
from engines.kernels.preload import load_kernels
from tests.support.devices.stand_in_driver import Driver, process_with_driver

PARAMETERS = {"crop": crop.PARAMETERS, "nms": nms.PARAMETERS}


def suppressed(threads):
    """Which boxes of three, of which two overlap, are kept: by a launch on each of several new threads."""
    import torch

    from engines.device.devices import open_device

    nms.kernel_for = lambda tensor, name, parameters: kernel(name, 0, parameters)
    boxes = torch.tensor([[(0, 0, 10, 10), (1, 1, 10, 10), (50, 50, 60, 60)]], dtype=torch.float32)
    given = (boxes, torch.tensor([[0.9, 0.8, 0.7]]), torch.zeros(1, 3), 0.5, open_device("cpu").new_stream())
    with ThreadPoolExecutor(threads) as pool:
        return [kept.tolist() for kept in pool.map(lambda _: nms.suppress(*given), range(threads))]


def cropped(sizes):
    """Crops of pictures of these sizes: by the kernel that the driver launches, and by PyTorch."""
    import torch

    from engines.device.devices import open_device
    from engines.device.pool import SurfacePool

    device = open_device("cpu")
    stream, pool = device.new_stream(), SurfacePool(device, len(sizes))
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (height, width, 3), np.uint8) for width, height in sizes]
    images = [pool.from_host(picture, stream) for picture in pictures]
    index, matrices = np.arange(len(sizes)), np.tile([[0.5, 0.1, 2], [-0.1, 0.6, 3]], (len(sizes), 1, 1))
    model_input = Input(
        name="x", size=(24, 32), layout="nchw", colour="bgr", mean=(114, 116, 118), std=(58, 57, 56),
        placement="centre", pad_value=114,
    )  # fmt: skip
    found = []
    for kernel_for in (lambda _, name, parameters: kernel(name, 0, parameters), lambda *_: None):
        crop.kernel_for = kernel_for
        out = torch.empty(len(sizes), 3, 32, 24, dtype=torch.float16)
        crop.write_crops(images, index, matrices, model_input, out, stream)
        found.append(out.numpy())
    return found


def refused():
    """The log's messages when a kernel is loaded on a second device."""
    records = QueueHandler(SimpleQueue())
    logging.getLogger("posestream.device").addHandler(records)
    assert kernel("nms", 1, nms.PARAMETERS) is None
    return [records.queue.get_nowait().getMessage() for _ in range(records.queue.qsize())]


def launched_after(device):
    """Calls that load kernels, before and while one is launched, after all kernels of a device are loaded."""
    nvrtc.kernel.cache_clear()
    driver = Driver()
    start = driver.calls("cuFuncLoad")
    load_kernels(device)
    before = driver.calls("cuFuncLoad") - start
    suppressed(1)
    return before, driver.calls("cuFuncLoad") - start - before


def noted():
    """Faults, contexts left on this thread, and references to the primary context."""
    driver = Driver()
    return driver.faults, driver.contexts, driver.calls("cuDevicePrimaryCtxRetain")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def compiler():
    try:
        call("nvrtc", "nvrtcVersion")
    except EngineError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_90", "sm_120"])
@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_kernels_compile(compiler, name, architecture):
    cubin = load_cubin(name, architecture, PARAMETERS[name].itemsize)
    assert cubin.startswith(b"\x7fELF")
    assert name.encode() in cubin


def test_a_kernel_is_compiled_once(compiler, home, monkeypatch):
    first = load_cubin("nms", "sm_90", nms.PARAMETERS.itemsize)
    monkeypatch.setattr(nvrtc, "_compile", None)
    assert load_cubin("nms", "sm_90", nms.PARAMETERS.itemsize) == first
    assert [file.read_bytes() for file in (home / "kernels").iterdir()] == [first]


@pytest.mark.parametrize(
    ("architecture", "size", "reason"),
    [
        ("sm_90", nms.PARAMETERS.itemsize + 8, "Parameters differs from the host's structure"),
        ("sm_1", nms.PARAMETERS.itemsize, "invalid value for --gpu-architecture"),
    ],
)
def test_a_compiler_error_is_one_line(compiler, architecture, size, reason):
    with pytest.raises(EngineError, match=reason) as raised:
        load_cubin("nms", architecture, size)
    assert "\n" not in str(raised.value)


def test_these_tests_cover_every_kernel():
    assert {file.stem for file in nvrtc.SOURCES.glob("*.cu")} == PARAMETERS.keys()


def test_the_log_says_why_a_kernel_cannot_run(caplog):
    assert kernel("nms", 1000, nms.PARAMETERS) is None  # no machine has so many GPUs
    assert "cuda:1000 runs without the kernel nms" in caplog.text


@pytest.fixture(scope="module")
def in_driver():
    """Runs a function in a process with the stand-in driver."""
    with process_with_driver() as run:
        yield run


def test_launches_reach_the_driver(compiler, in_driver):
    assert in_driver(suppressed, 1) == [[[True, False, True]]]
    assert in_driver(suppressed, 3) == [[[True, False, True]]] * 3
    # More pictures than one launch takes.
    by_kernel, by_torch = in_driver(cropped, [(40 + i, 60 - i) for i in range(20)])
    np.testing.assert_array_equal(by_kernel, by_torch)
    assert in_driver(noted) == ([], 0, 1)


def test_kernels_are_loaded_before_they_are_launched(compiler, in_driver):
    assert in_driver(launched_after, "cuda:0") == (len(PARAMETERS), 0)
    assert in_driver(launched_after, "cpu") == (0, 1)


def test_a_driver_without_a_second_device(compiler, in_driver):
    (message,) = in_driver(refused)
    assert message.startswith("cuda:1 runs without the kernel nms")
    assert "cuDeviceGet: CUDA_ERROR_INVALID_DEVICE" in message
