"""The use of GPUs during a measurement, by NVML (nvidia-ml-py)."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tools.profiling.document import GpuUse

log = logging.getLogger("posestream.profile")

MB = 1e6
# Bits of NVML's clocks event reasons (nvml.h). Bit 0x001, an idle GPU, is not throttling.
REASONS = {
    0x002: "clocks set by hand",
    0x004: "power limit",
    0x008: "hardware slowdown",
    0x010: "clocks synchronised with other GPUs",
    0x020: "too hot (driver)",
    0x040: "too hot (hardware)",
    0x080: "external power brake",
    0x100: "clocks set for the display",
}


def load_nvml() -> Any:
    """Load and initialise NVML; None if nvidia-ml-py or the driver is missing."""
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError:
        log.debug("no measurements of GPUs: nvidia-ml-py is not installed")
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.debug("no measurements of GPUs: %s", error)
        return None
    return pynvml


class _GpuSample(NamedTuple):
    at_s: float
    busy: float | None
    decoder: float | None
    memory_mb: float | None
    power_w: float | None
    clock_mhz: float | None
    reasons: int | None
    energy_j: float | None  # since the driver was loaded


class GpuSampler:
    """Samples the GPUs by NVML: all of them, or those that CUDA_VISIBLE_DEVICES names."""

    def __init__(self, nvml: Any):
        self._nvml = nvml
        self._handles = self._visible(os.environ.get("CUDA_VISIBLE_DEVICES"))
        self._samples: list[list[_GpuSample]] = [[] for _ in self._handles]

    def sample(self, at_s: float) -> None:
        """Take a sample of all GPUs."""
        for handle, samples in zip(self._handles, self._samples, strict=True):
            samples.append(self._sample(handle, at_s))

    def use(self, frames: int) -> list[GpuUse]:
        """Sum up the samples; `frames` were finished between the first and the last."""
        return [
            self._use(handle, samples, frames)
            for handle, samples in zip(self._handles, self._samples, strict=True)
        ]

    def _visible(self, setting: str | None) -> list[Any]:
        nvml = self._nvml
        if setting is None:
            return [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        handles = []
        for name in filter(None, (part.strip() for part in setting.split(","))):
            by_index = name.isdigit()
            ask = nvml.nvmlDeviceGetHandleByIndex if by_index else nvml.nvmlDeviceGetHandleByUUID
            if (handle := self._ask(ask, int(name) if by_index else name)) is None:
                break  # CUDA, too, ignores what follows a device that does not exist
            handles.append(handle)
        return handles

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the answer; None if the GPU does not support the question."""
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None

    def _sample(self, handle: Any, at_s: float) -> _GpuSample:
        nvml = self._nvml
        rates = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        decoder = self._ask(nvml.nvmlDeviceGetDecoderUtilization, handle)
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        power_mw = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        energy_mj = self._ask(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        return _GpuSample(
            at_s,
            busy=None if rates is None else rates.gpu / 100,
            decoder=None if decoder is None else decoder[0] / 100,
            memory_mb=None if memory is None else memory.used / MB,
            power_w=None if power_mw is None else power_mw / 1e3,
            clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            reasons=self._ask(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle),
            energy_j=None if energy_mj is None else energy_mj / 1e3,
        )

    def _use(self, handle: Any, samples: list[_GpuSample], frames: int) -> GpuUse:
        name = self._nvml.nvmlDeviceGetName(handle)
        memory = [sample.memory_mb for sample in samples if sample.memory_mb is not None]
        joules = _joules(samples)
        return GpuUse(
            name=name.decode() if isinstance(name, bytes) else name,
            busy=_mean(sample.busy for sample in samples),
            decoder=_mean(sample.decoder for sample in samples),
            memory_mb=max(memory, default=None),
            power_w=_mean(sample.power_w for sample in samples),
            clock_mhz=_mean(sample.clock_mhz for sample in samples),
            throttling=_throttling([s.reasons for s in samples if s.reasons is not None]),
            joules=joules,
            joules_per_1000_frames=None if joules is None or not frames else 1000 * joules / frames,
        )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _joules(samples: list[_GpuSample]) -> float | None:
    """Energy by the GPU's own counter; without one, power integrated over time."""
    first, last = samples[0], samples[-1]
    if first.energy_j is not None and last.energy_j is not None:
        return last.energy_j - first.energy_j
    powers = [sample.power_w for sample in samples if sample.power_w is not None]
    if len(powers) < len(samples):
        return None
    return sum(
        (now.at_s - before.at_s) * (p + q) / 2
        for before, now, p, q in zip(samples, samples[1:], powers, powers[1:], strict=False)
    )


def _throttling(reasons: list[int]) -> dict[str, float]:
    """Share of the samples with each reason."""
    found = Counter(word for bits in reasons for bit, word in REASONS.items() if bits & bit)
    return {word: n / len(reasons) for word, n in found.most_common()}
