"""GPUs by a made-up NVML, and once by a real one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tools.profiling.machine.gpus import GpuSampler, load_nvml


class MissingError(Exception):
    pass


class Nvml:
    """pynvml with two GPUs, which do not support what is in `missing`. Each sample has other values."""

    NVMLError = MissingError
    NVML_CLOCK_SM = 1

    def __init__(self, *missing):
        self.missing = missing
        self.moment = -1

    def nvmlDeviceGetCount(self):  # noqa: N802 - its name there
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        if index > 1:
            raise MissingError("not found")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        return {"GPU-b": 1}[uuid]

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return [b"Board A", "Board B"][handle]  # older bindings give bytes

    def __getattr__(self, name):
        if name in self.missing or not name.startswith("nvmlDeviceGet"):
            raise AssertionError(name)

        def ask(handle, *more):
            if name == "nvmlDeviceGetUtilizationRates":
                self.moment += 1
            if name.removeprefix("nvmlDeviceGet") in self.missing:
                raise MissingError("not supported")
            return {
                "UtilizationRates": SimpleNamespace(gpu=[20, 60, 100][self.moment % 3]),
                "DecoderUtilization": [[0, 30, 60][self.moment % 3], 1000],
                "MemoryInfo": SimpleNamespace(used=[5e9, 7e9, 6e9][self.moment % 3]),
                "PowerUsage": [100_000, 300_000, 200_000][self.moment % 3],
                "ClockInfo": [1000, 1500, 2000][self.moment % 3],
                "CurrentClocksEventReasons": [0x1, 0x4 | 0x40, 0x4][self.moment % 3],
                "TotalEnergyConsumption": [70_000, 90_000, 130_000][self.moment % 3],
            }[name.removeprefix("nvmlDeviceGet")]

        return ask


def use_of(nvml, frames=500):
    sampler = GpuSampler(nvml)
    for at_s in (10.0, 11.0, 13.0):
        sampler.sample(at_s)
    return sampler.use(frames)


@pytest.fixture
def one(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")


def test_everything_that_a_gpu_reports(one):
    (board,) = use_of(Nvml())
    assert board.name == "Board A"
    assert board.busy == pytest.approx(0.6)
    assert board.decoder == pytest.approx(0.3)
    assert board.memory_mb == 7000  # the peak
    assert board.power_w == pytest.approx(200)
    assert board.clock_mhz == pytest.approx(1500)
    assert board.throttling == {
        "power limit": pytest.approx(2 / 3),
        "too hot (hardware)": pytest.approx(1 / 3),
    }
    assert board.joules == pytest.approx(60)  # by its counter
    assert board.joules_per_1000_frames == pytest.approx(120)


def test_without_a_counter_energy_is_power_over_time(one):
    (board,) = use_of(Nvml("TotalEnergyConsumption"))
    assert board.joules == pytest.approx(1 * (100 + 300) / 2 + 2 * (300 + 200) / 2)


def test_what_a_gpu_does_not_report_is_left_out(one):
    names = ("DecoderUtilization", "PowerUsage", "ClockInfo", "CurrentClocksEventReasons", "MemoryInfo")
    (board,) = use_of(Nvml(*names, "TotalEnergyConsumption"))
    assert (board.decoder, board.power_w, board.clock_mhz, board.memory_mb) == (None, None, None, None)
    assert (board.joules, board.joules_per_1000_frames, board.throttling) == (None, None, {})
    assert board.busy == pytest.approx(0.6)


def test_without_frames_there_is_no_energy_per_frame(one):
    assert use_of(Nvml(), frames=0)[0].joules_per_1000_frames is None


@pytest.mark.parametrize(
    ("visible", "names"),
    [(None, ["Board A", "Board B"]), ("1", ["Board B"]), ("GPU-b", ["Board B"]), ("1,0", ["Board B", "Board A"]),
     ("0,7,1", ["Board A"]), ("", [])],
)  # fmt: skip
def test_only_the_gpus_that_cuda_sees(monkeypatch, visible, names):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [board.name for board in use_of(Nvml())] == names


@pytest.mark.gpu
def test_a_real_gpu():
    nvml = load_nvml()
    assert nvml is not None
    board = use_of(nvml)[0]
    assert board.memory_mb > 0
    assert 0 <= board.busy <= 1
