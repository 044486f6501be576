"""The kernels compile for all supported GPUs, once, and their launches reach the driver."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")

from engines.device.cuda_bindings import call
from engines.errors import EngineError
from engines.kernels import crop, nms, nvrtc
from engines.kernels.nvrtc import kernel, load_cubin
from tests.support.devices.cuda_emulator import build_driver

PARAMETERS = {"crop": crop.PARAMETERS, "nms": nms.PARAMETERS}

# Two of three boxes overlap. The second launch is on a thread that has not used CUDA before.
SCRIPT = """
import threading, torch
from engines.kernels import nms
from engines.kernels.nvrtc import kernel
from engines.device.devices import open_device
nms.kernel_for = lambda tensor, name, parameters: kernel(name, 0, parameters)
boxes = torch.tensor([[(0, 0, 10, 10), (1, 1, 10, 10), (50, 50, 60, 60)]], dtype=torch.float32)
given = (boxes, torch.tensor([[0.9, 0.8, 0.7]]), torch.zeros(1, 3), 0.5, open_device("cpu").new_stream())
print(nms.suppress(*given).tolist())
thread = threading.Thread(target=lambda: print(nms.suppress(*given).tolist()))
thread.start()
thread.join()
print(kernel("nms", 1, nms.PARAMETERS))
"""


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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the driver is built as a library of Linux")
def test_launches_reach_the_driver(compiler, tmp_path):
    build_driver(tmp_path, "nms", nms.PARAMETERS)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "LD_LIBRARY_PATH": f"{tmp_path}:{os.environ.get('LD_LIBRARY_PATH', '')}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["[[True, False, True]]"] * 2 + ["None"]
    assert done.stderr.count("runs without the kernel nms") == 1  # there is no second device
    assert "cuDeviceGet: CUDA_ERROR_INVALID_DEVICE" in done.stderr
