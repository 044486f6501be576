"""Load a model: its file, the backend that runs it, and the check against its contract."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

from engines.assets.model_files import runnable
from engines.assets.store import locate
from engines.backends.base import Engine
from engines.contracts.config_files import nearest
from engines.contracts.contract import Contract
from engines.device.gpus import gpu_index
from engines.errors import ContractError, EngineError
from engines.loading.contract_check import check, check_carried
from engines.loading.engine_calls import Loaded, watched
from engines.loading.engine_choice import BACKENDS, Backend, choices, device_name, kinds, suits

__all__ = ["BACKENDS", "Backend", "find_engine", "load_engine"]

log = logging.getLogger("posestream.engine")


def load_engine(
    contract: Contract,
    *,
    threads: int = 1,
    path: Path | None = None,
    backend: Backend = "auto",
    device: str | None = None,
) -> Engine:
    """The engine that runs `contract`'s model, from what is kept on this machine or from `path`.

    Outputs that the contract does not name are not computed. `auto` takes the fastest backend that is
    installed, has its device and can run the file, and logs which, and why. One that fails all the same, as a
    plan that is found beyond the tolerance, gives way to the next, with a warning.

    Args:
        contract: of the model.
        threads: of the processor, for what runs there.
        path: of the model's file, if it is not the one that is kept.
        backend: what shall run it.
        device: where it shall run, and nowhere else: cpu, cuda (the first GPU), cuda:1. Unless told, that is
            the first GPU for what runs on one.

    Raises:
        AssetError: the weights are not on this machine; the message names the command that fetches them.
        EngineError: the file is not a model; or it was not exported, or compiled, yet; or the backend is not
            installed, lacks its device, or cannot run such a file; or there is no such device.
        ContractError: the file is another model than the contract describes; both values are named.
    """
    device = device and device_name(device)
    path, found, _ = find_engine(contract, path, backend, device)
    if backend != "auto":
        return _checked(contract, path, threads, found, device)
    failure: EngineError | None = None
    for candidate, why in choices(contract, path, device):
        if failure:
            log.warning("%s: what is faster fails: %s", contract.name, failure)
        log.info("%s: %s (%s)", contract.name, candidate, why)
        try:
            return _checked(contract, path, threads, candidate, device)
        except ContractError:
            raise
        except EngineError as error:
            failure = error
    raise failure or EngineError(f"{contract.name}: nothing here runs {path.name}")


def _checked(contract: Contract, path: Path, threads: int, backend: Backend, device: str | None) -> Engine:
    engine = _open(contract, path, threads, backend, device)
    try:
        check(contract, engine, path.name)
        check_carried(contract, path)
    except ContractError:
        engine.close()
        raise
    return watched(engine, Loaded(contract.name, path.name, backend, threads))


def find_engine(
    contract: Contract, path: Path | None, backend: str, device: str | None = None
) -> tuple[Path, Backend, str]:
    """What `load_engine` would load: the file, the backend that runs it, and why it is this one.

    Raises:
        AssetError, EngineError: as `load_engine`, for what is missing or does not go together.
    """
    if backend not in BACKENDS:
        raise EngineError(f"no backend {backend!r}; {nearest(backend, list(BACKENDS))}")
    if path is None:
        path = locate(contract.asset, name=contract.name) if backend == "torch" else runnable(contract)
    if backend == "auto":
        if not (first := next(choices(contract, path, device), None)):
            raise EngineError(
                f"{contract.name}: nothing here runs {path.name} on {device}; leave the device out, or build "
                f"a plan: posestream engine build {contract.name}, or pip install onnxruntime-gpu"
            )
        return path, *first
    told = cast(Backend, backend)
    if device and device.partition(":")[0] not in kinds(told):
        raise EngineError(
            f"{contract.name}: {backend} does not run on {device}; leave out the device or the backend"
        )
    if not suits(told, path):
        raise EngineError(f"{contract.name}: {backend} cannot run {path.name}; leave the backend to auto")
    return path, told, "as told"


def _open(contract: Contract, path: Path, threads: int, backend: Backend, device: str | None) -> Engine:
    """The backend is imported here, so that a run loads only the libraries of its own models."""
    outputs = [output.name for output in contract.outputs.values()]
    if backend == "litert":
        from engines.backends.litert import LitertEngine

        return LitertEngine(path, threads, outputs)
    if backend == "torch":
        from engines.backends.pytorch import TorchEngine

        return TorchEngine(contract, path, threads, device=device)
    if backend in ("tensorrt", "tensorrt-rtx"):
        from engines.tensorrt.plan_cache import open_plan

        return open_plan(contract, path, backend, device or "cuda:0")
    from engines.backends.onnxruntime import OnnxEngine

    provider = backend.removeprefix("onnxruntime").removeprefix("-") or "cpu"
    return OnnxEngine(path, threads, outputs, provider=provider, gpu=gpu_index(device or ""))
