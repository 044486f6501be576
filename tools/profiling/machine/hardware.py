"""The machine that a profile was measured on: processor, GPUs, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tools.profiling.document import Machine
from tools.profiling.machine.gpus import load_nvml

MB = 1e6
HERE = Path(__file__).resolve().parent
RESULTS = ":(top,exclude)benchmarks/results"  # benchmarks overwrite their results: no change of the code
# The packages that decide the speed.
PACKAGES = (
    "posestream", "numpy", "opencv-python-headless", "av", "onnxruntime", "onnxruntime-gpu", "ai-edge-litert",
    "torch", "tensorrt", "tensorrt-rtx-cu13",
)  # fmt: skip


def this_machine() -> Machine:
    """Describe this machine and the packages that posestream runs with."""
    gpus, driver = _gpus()
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_mb=round(_memory_bytes() / MB),
        system=platform.platform(),
        python=platform.python_version(),
        gpus=gpus,
        driver=driver,
        versions=installed_versions(PACKAGES),
        commit=commit(),
    )


def commit(folder: Path = HERE) -> str | None:
    """The commit of a checkout, with `+changes` if files differ from it; None without a checkout or git."""
    found = _git(folder, "rev-parse", "HEAD")
    if not found:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ":/", RESULTS)
    return found[:12] + ("+changes" if changes else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _processor() -> str:
    """The processor's model from /proc/cpuinfo on Linux, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _gpus() -> tuple[list[str], str | None]:
    """The names of the GPUs and the version of their driver, if NVML is available."""
    nvml = load_nvml()
    if nvml is None:
        return [], None
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    return [nvml.nvmlDeviceGetName(handle) for handle in handles], nvml.nvmlSystemGetDriverVersion()
