"""Load a model: its file, the backend that runs it, and the check against its contract."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

from engines.assets import locate
from engines.backends.base import Engine
from engines.backends.choice import BACKENDS, Backend, choices, suits
from engines.checks import check, check_carried
from engines.configs import nearest
from engines.contract import Contract
from engines.errors import ContractError, EngineError
from engines.prepared import runnable
from engines.watch import Loaded, watched

__all__ = ["BACKENDS", "Backend", "find_engine", "load_engine"]

log = logging.getLogger("posestream.engine")


def load_engine(
    contract: Contract, *, threads: int = 1, path: Path | None = None, backend: Backend = "auto"
) -> Engine:
    """The engine that runs `contract`'s model, from what is kept on this machine or from `path`.

    Outputs that the contract does not name are not computed. `auto` takes the fastest backend that is
    installed, has its device and can run the file, and logs which, and why. One that fails all the same, as a
    plan that is found beyond the tolerance, gives way to the next, with a warning.

    Raises:
        AssetError: the weights are not on this machine; the message names the command that fetches them.
        EngineError: the file is not a model; or it was not exported, or compiled, yet; or the backend is not
            installed, lacks its device, or cannot run such a file.
        ContractError: the file is another model than the contract describes; both values are named.
    """
    path, found, _ = find_engine(contract, path, backend)
    if backend != "auto":
        return _checked(contract, path, threads, found)
    failure: EngineError | None = None
    for candidate, why in choices(contract, path):
        if failure:
            log.warning("%s: what is faster fails: %s", contract.name, failure)
        log.info("%s: %s (%s)", contract.name, candidate, why)
        try:
            return _checked(contract, path, threads, candidate)
        except ContractError:
            raise
        except EngineError as error:
            failure = error
    raise failure or EngineError(f"{contract.name}: nothing here runs {path.name}")


def _checked(contract: Contract, path: Path, threads: int, backend: Backend) -> Engine:
    engine = _open(contract, path, threads, backend)
    try:
        check(contract, engine, path.name)
        check_carried(contract, path)
    except ContractError:
        engine.close()
        raise
    return watched(engine, Loaded(contract.name, path.name, backend, threads))


def find_engine(contract: Contract, path: Path | None, backend: str) -> tuple[Path, Backend, str]:
    """What `load_engine` would load: the file, the backend that runs it, and why it is this one.

    Raises:
        AssetError, EngineError: as `load_engine`, for what is missing or does not go together.
    """
    if backend not in BACKENDS:
        raise EngineError(f"no backend {backend!r}; {nearest(backend, list(BACKENDS))}")
    if path is None:
        path = locate(contract.asset, name=contract.name) if backend == "torch" else runnable(contract)
    if backend == "auto":
        return path, *next(choices(contract, path))
    told = cast(Backend, backend)
    if not suits(told, path):
        raise EngineError(f"{contract.name}: {backend} cannot run {path.name}; leave the backend to auto")
    return path, told, "as told"


def _open(contract: Contract, path: Path, threads: int, backend: Backend) -> Engine:
    """The backend is imported here, so that a run loads only the libraries of its own models."""
    outputs = [output.name for output in contract.outputs.values()]
    if backend == "litert":
        from engines.backends.litert import LitertEngine

        return LitertEngine(path, threads, outputs)
    if backend == "torch":
        from engines.backends.pytorch import TorchEngine

        return TorchEngine(contract, path, threads)
    if backend in ("tensorrt", "tensorrt-rtx"):
        from engines.plans import open_plan

        return open_plan(contract, path, backend)
    from engines.backends.onnxruntime import OnnxEngine

    device = backend.removeprefix("onnxruntime").removeprefix("-") or "cpu"
    return OnnxEngine(path, threads, outputs, device=device)
