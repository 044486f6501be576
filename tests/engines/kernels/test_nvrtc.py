"""The kernels compile for every GPU that is meant, once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")

from engines.errors import EngineError
from engines.kernels import crop as cut
from engines.kernels import nms as suppress
from engines.kernels import nvrtc
from engines.kernels.nvrtc import compiled, kernel
from tests.support.cuda_emulator import build_driver

PARAMETERS = {"crop": cut.WORK, "nms": suppress.WORK}

# Two of three boxes overlap; the second launch is by a thread that has not used CUDA before.
SCRIPT = """
import threading, torch
from engines.kernels import nms as suppress
from engines.kernels.nvrtc import kernel
from engines.device.devices import open_device
suppress.kernel_for = lambda tensor, name, parameters: kernel(name, 0, parameters)
boxes = torch.tensor([[(0, 0, 10, 10), (1, 1, 10, 10), (50, 50, 60, 60)]], dtype=torch.float32)
given = (boxes, torch.tensor([[0.9, 0.8, 0.7]]), torch.zeros(1, 3), 0.5, open_device("cpu").new_stream())
print(suppress.suppress(*given).tolist())
thread = threading.Thread(target=lambda: print(suppress.suppress(*given).tolist()))
thread.start()
thread.join()
print(kernel("nms", 1, suppress.WORK))
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def compiler():
    try:
        nvrtc._call(nvrtc._bindings("nvrtc"), "nvrtcVersion")
    except EngineError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_90", "sm_120"])
@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_kernels_compile(compiler, name, architecture):
    cubin = compiled(name, architecture, PARAMETERS[name].itemsize)
    assert cubin.startswith(b"\x7fELF")
    assert name.encode() in cubin


def test_a_kernel_is_compiled_once(compiler, home, monkeypatch):
    first = compiled("nms", "sm_90", suppress.WORK.itemsize)
    monkeypatch.setattr(nvrtc, "_compile", None)
    assert compiled("nms", "sm_90", suppress.WORK.itemsize) == first
    assert [file.read_bytes() for file in (home / "kernels").iterdir()] == [first]


@pytest.mark.parametrize(
    ("architecture", "size", "reason"),
    [
        ("sm_90", suppress.WORK.itemsize + 8, "Work is not what the host fills in"),
        ("sm_1", suppress.WORK.itemsize, "invalid value for --gpu-architecture"),
    ],
)
def test_what_does_not_compile_is_told_in_one_line(compiler, architecture, size, reason):
    with pytest.raises(EngineError, match=reason) as told:
        compiled("nms", architecture, size)
    assert "\n" not in str(told.value)


def test_every_kernel_is_looked_at():
    assert {file.stem for file in nvrtc.SOURCES.glob("*.cu")} == PARAMETERS.keys()


def test_where_a_kernel_cannot_run_the_reason_is_told(caplog):
    assert kernel("nms", 1000, suppress.WORK) is None  # no machine has so many GPUs
    assert "cuda:1000 does without the kernel nms" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="the driver is built as a library of Linux")
def test_launches_reach_the_driver(compiler, tmp_path):
    build_driver(tmp_path, "nms", suppress.WORK)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "LD_LIBRARY_PATH": f"{tmp_path}:{os.environ.get('LD_LIBRARY_PATH', '')}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["[[True, False, True]]"] * 2 + ["None"]
    assert done.stderr.count("does without the kernel nms") == 1  # there is no second device
    assert "cuDeviceGet: CUDA_ERROR_INVALID_DEVICE" in done.stderr
