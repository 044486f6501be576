"""Measure an engine alone: items a second, latency and memory, by batch size."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.base import Engine
from engines.comparison.example_inputs import examples
from engines.contracts.contract import Contract
from engines.loading.engine_choice import choose_engine
from engines.loading.load import open_engine

MIN_RUNS = 3  # of a batch size, however slow
MB = 2**20


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of one batch size; only the size if it was left out as too slow."""

    batch: int
    items_per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    runs: int = 0
    memory_mb: float | None = None  # resident memory of this process, above that before loading
    gpu_mb: float | None = None  # memory in use on the first GPU, above that before loading

    def cells(self) -> list[str]:
        """The cells of a table's row."""
        if self.items_per_s is None:
            return [str(self.batch), "too slow", *[""] * 5]
        numbers = (self.items_per_s, self.p50_ms, self.p99_ms)
        memory = ("" if mb is None else f"{mb:.0f}" for mb in (self.memory_mb, self.gpu_mb))
        return [str(self.batch), *(f"{number:.1f}" for number in numbers), str(self.runs), *memory]


@dataclasses.dataclass(frozen=True)
class Bench:
    """The figures of one model with one backend."""

    model: str
    backend: str
    why: str
    file: str
    threads: int
    load_s: float
    rows: list[Row]

    @property
    def title(self) -> str:
        """Model, backend, threads and loading time in one line."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.model}: {self.backend}, {threads}, loaded in {self.load_s:.2f} s"

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON."""
        return dataclasses.asdict(self)


def bench_model(
    contract: Contract,
    *,
    path: Path | None = None,
    backend: str = "auto",
    threads: int = 1,
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    seconds: float = 2.0,
) -> Bench:
    """Load a model and run it in batches of several sizes, each for `seconds`.

    A size that would take far longer than `seconds` is left out, and so are the larger ones.

    Raises:
        AssetError, EngineError, ContractError: as `load_engine`.
    """
    example = examples(contract).batch[:1]
    before = _resident_mb(), _gpu_mb()
    start = time.perf_counter()
    choice = choose_engine(contract, path, backend)
    engine = open_engine(choice, threads)
    load_s = time.perf_counter() - start
    rows: list[Row] = []
    try:
        for size in sorted(batches):
            if _too_slow(rows, size, seconds):
                rows.append(Row(size))
                continue
            batch = np.repeat(example, size, axis=0)
            times = _times(engine, contract.input.name, batch, seconds)
            rows.append(_row(size, times, before))
    finally:
        engine.close()
    return Bench(contract.name, choice.backend, choice.why, choice.path.name, threads, round(load_s, 3), rows)


def _times(engine: Engine, name: str, batch: np.ndarray, seconds: float) -> np.ndarray:
    """Seconds of each run, after a warm-up run."""
    engine.run({name: batch})
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        engine.run({name: batch})
        times.append(time.perf_counter() - start)
    return np.array(times)


def _too_slow(rows: list[Row], size: int, seconds: float) -> bool:
    """Whether MIN_RUNS of a size would take over three times `seconds`, judged by the size before it."""
    if not rows:
        return False
    rate = rows[-1].items_per_s
    return rate is None or (MIN_RUNS + 1) * size / rate > 3 * seconds


def _row(size: int, times: np.ndarray, before: tuple[float | None, float | None]) -> Row:
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    memory = [
        None if now is None or then is None else round(max(now - then, 0.0), 1)
        for now, then in zip((_resident_mb(), _gpu_mb()), before, strict=True)
    ]
    rate = size * len(times) / times.sum()
    return Row(size, round(rate, 2), round(p50, 3), round(p99, 3), len(times), *memory)


def _resident_mb() -> float | None:
    """Resident memory of this process; None where there is no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def _gpu_mb() -> float | None:
    """Memory in use on the first GPU, by all processes; None without one, or without nvidia-ml-py."""
    try:
        import pynvml  # type: ignore[import-untyped]

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used / MB
    except (ImportError, OSError):
        return None
    except pynvml.NVMLError:
        return None
