"""Decide what runs a model: its file, the backend, the device and, for TensorRT, the compiled plan.

This is decided in `engine_choices` and nowhere else; `engines.loading.load` opens what was chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from engines.assets.model_files import runnable
from engines.assets.store import locate
from engines.contracts.contract import Contract
from engines.device.names import cuda_devices, existing_device, parse_device
from engines.errors import EngineError, nearest
from engines.tensorrt.flavours import FLAVOURS

if TYPE_CHECKING:
    from engines.tensorrt.plan_files import Plan

Backend = Literal[
    "auto",
    "litert",
    "onnxruntime",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "torch",
    "tensorrt",
    "tensorrt-rtx",
]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
CHECKPOINTS = {".pth", ".pt", ".safetensors"}


@dataclasses.dataclass(frozen=True)
class EngineChoice:
    """What a model is loaded with. Nothing is opened yet."""

    contract: Contract
    path: Path
    backend: Backend  # never auto
    device: str  # cpu, cuda:0
    why: str  # for the log
    plan: Plan | None = None  # with tensorrt and tensorrt-rtx only


def choose_engine(
    contract: Contract, path: Path | None = None, backend: str = "auto", device: str | None = None
) -> EngineChoice:
    """The first of `engine_choices`, with the same arguments and errors."""
    return next(engine_choices(contract, path, backend, device))


def engine_choices(
    contract: Contract, path: Path | None = None, backend: str = "auto", device: str | None = None
) -> Iterator[EngineChoice]:
    """Everything that can run the model here, the fastest first; a single choice if the backend is named.

    A compiled plan comes first if there is one. Nothing is compiled, since that takes minutes.

    Args:
        contract: of the model.
        path: of the model's file; None for the file in the cache.
        backend: the backend to run it with, or auto.
        device: where to run it; None for the backend's own default (`default_device`).

    Raises:
        AssetError: the weights are not on this machine; the message names the command that fetches them.
        EngineError: the backend is unknown, or does not run this kind of file or on this device; there is no
            such device; the model was not exported yet; no plan fits; or no backend runs the file there.
    """
    device = device and existing_device(device)
    if backend not in BACKENDS:
        raise EngineError(f"no backend {backend!r}; {nearest(backend, list(BACKENDS))}")
    if path is None:
        path = locate(contract.asset, name=contract.name) if backend == "torch" else runnable(contract)
    if backend != "auto":
        yield _named(contract, path, cast(Backend, backend), device)
        return
    found = False
    for choice in _fastest_first(contract, path, device):
        if device is None or parse_device(device).kind in device_kinds(choice.backend):
            found = True
            yield choice
    if not found:
        raise EngineError(
            f"{contract.name}: nothing here runs {path.name} on {device}; leave the device out, or build "
            f"a plan: posestream engine build {contract.name}, or pip install onnxruntime-gpu"
        )


def runs_file(backend: Backend, path: Path) -> bool:
    """Whether a backend runs files of this kind."""
    if backend == "litert":
        return path.suffix == ".tflite"
    if backend == "torch":
        return path.suffix in CHECKPOINTS
    return path.suffix not in CHECKPOINTS | {".tflite"}


def device_kinds(backend: Backend) -> set[str]:
    """The kinds of device that a backend runs on: cpu, cuda."""
    if backend == "torch":
        return {"cpu", "cuda"}
    return {"cpu"} if backend in ("litert", "onnxruntime") else {"cuda"}


def default_device(backend: str) -> str:
    """Where a backend runs if no device is named: on the first GPU if it can use one, else on the CPU."""
    if backend == "torch":
        return "cuda:0" if cuda_devices() and _torch_finds_gpu() else "cpu"
    return "cuda:0" if "cuda" in device_kinds(cast(Backend, backend)) else "cpu"


def _named(contract: Contract, path: Path, backend: Backend, device: str | None) -> EngineChoice:
    """The choice for a backend that the caller names."""
    if device and parse_device(device).kind not in device_kinds(backend):
        raise EngineError(
            f"{contract.name}: {backend} does not run on {device}; leave out the device or the backend"
        )
    if not runs_file(backend, path):
        raise EngineError(f"{contract.name}: {backend} cannot run {path.name}; leave the backend to auto")
    device = device or default_device(backend)
    plan = None
    if backend in FLAVOURS:
        from engines.tensorrt.plan_search import ModelPlans

        plan = ModelPlans(contract, path).require(backend, device)
    return EngineChoice(contract, path, backend, device, "as requested", plan)


def _fastest_first(contract: Contract, path: Path, device: str | None) -> Iterator[EngineChoice]:
    """All choices for a file; the caller leaves out those that do not run on a named device."""

    def choice(backend: Backend, why: str, plan: Plan | None = None) -> EngineChoice:
        return EngineChoice(contract, path, backend, device or default_device(backend), why, plan)

    if path.suffix == ".tflite":
        yield choice("litert", "a TensorFlow Lite model")
    elif path.suffix in CHECKPOINTS:
        yield choice("torch", "a checkpoint")
    elif device == "cpu":
        yield choice("onnxruntime", "on the CPU, as requested")
    elif not cuda_devices():
        yield choice("onnxruntime", "on the CPU: no CUDA device")
    else:
        for backend, plan in _plans(contract, path, device or "cuda:0"):
            yield choice(backend, "a plan was built for this GPU", plan)
        build = f"posestream engine build {contract.name}"
        on_cpu = "on the CPU though there is a GPU"
        if "CUDAExecutionProvider" in _providers():
            yield choice("onnxruntime-cuda", f"no plan that runs here: {build}")
        else:
            on_cpu += (
                ": this onnxruntime has no CUDA provider, and there is no plan that runs here; "
                f"{build}, or pip install onnxruntime-gpu"
            )
        yield choice("onnxruntime", on_cpu)


def _plans(contract: Contract, path: Path, device: str) -> Iterator[tuple[Backend, Plan]]:
    """The plans for the file and the GPU, at most one for each backend that is installed."""
    installed = [backend for backend, kind in FLAVOURS.items() if find_spec(kind.module)]
    if not installed:
        return
    from engines.tensorrt.plan_search import ModelPlans

    plans = ModelPlans(contract, path)
    for backend in installed:
        if plan := plans.find(backend, device):
            yield backend, plan


def _providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _torch_finds_gpu() -> bool:
    try:
        import torch
    except ModuleNotFoundError:
        return False
    return torch.cuda.is_available()
