"""Load a model: decide what runs it, open the engine, and check it against the contract."""

from __future__ import annotations

import logging
from pathlib import Path

from engines.backends.base import Engine
from engines.contracts.carried_contract import check_carried
from engines.contracts.contract import Contract
from engines.device.names import parse_device
from engines.errors import ContractError, EngineError
from engines.kernels.preload import load_kernels
from engines.loading.contract_check import check_graph
from engines.loading.engine_calls import Loaded, watched
from engines.loading.engine_choice import Backend, EngineChoice, engine_choices

log = logging.getLogger("posestream.engine")


def load_engine(
    contract: Contract,
    *,
    threads: int = 1,
    path: Path | None = None,
    backend: Backend = "auto",
    device: str | None = None,
) -> Engine:
    """The engine that runs `contract`'s model, from the cache or from `path`.

    Outputs that the contract does not name are not computed. `auto` takes the fastest backend that is
    installed, has its device and can run the file, and logs which one and why. If that backend fails, for
    example because its plan is beyond the contract's tolerance, the next one is tried, with a warning.

    Args:
        contract: of the model.
        threads: of the processor, for a backend that computes there.
        path: of the model's file; None for the file in the cache.
        backend: the backend to run it with, or auto.
        device: the only device to run it on: cpu, cuda (the first GPU), cuda:1. None for the first GPU if the
            backend can use one, else the CPU.

    Raises:
        AssetError: the weights are not on this machine; the message names the command that fetches them.
        EngineError: the file is not a model; or it was not exported, or compiled, yet; or the backend is not
            installed, lacks its device, or cannot run such a file; or there is no such device.
        ContractError: the file is another model than the contract describes; both values are named.
    """
    failure: EngineError | None = None
    for choice in engine_choices(contract, path, backend, device):
        if failure:
            log.warning("%s: a faster backend failed: %s", contract.name, failure)
        if backend == "auto":
            log.info("%s: %s (%s)", contract.name, choice.backend, choice.why)
        try:
            return open_engine(choice, threads)
        except ContractError:
            raise
        except EngineError as error:
            failure = error
    assert failure is not None  # there is at least one choice, else `engine_choices` raises
    raise failure


def open_engine(choice: EngineChoice, threads: int = 1) -> Engine:
    """Open exactly what was chosen, and check it against its contract.

    Raises:
        EngineError, ContractError: as `load_engine`.
    """
    engine = _open(choice, threads)
    try:
        check_graph(choice.contract, engine, choice.path.name)
        check_carried(choice.contract, choice.path)
    except ContractError:
        engine.close()
        raise
    load_kernels(engine.device)
    return watched(engine, Loaded(choice.contract.name, choice.path.name, choice.backend, threads))


def _open(choice: EngineChoice, threads: int) -> Engine:
    # Each backend is imported here, so that a run loads only the libraries of its own models.
    contract, path, backend = choice.contract, choice.path, choice.backend
    outputs = [output.name for output in contract.outputs.values()]
    if backend == "litert":
        from engines.backends.litert import LitertEngine

        return LitertEngine(path, threads, outputs)
    if backend == "torch":
        from engines.backends.pytorch import TorchEngine

        return TorchEngine(contract, path, threads, device=choice.device)
    if choice.plan is not None:
        from engines.tensorrt.open_plan import open_plan

        return open_plan(choice.plan, contract, path, choice.device)
    from engines.backends.onnxruntime import OnnxEngine

    provider = backend.removeprefix("onnxruntime").removeprefix("-") or "cpu"
    return OnnxEngine(path, threads, outputs, provider=provider, gpu=parse_device(choice.device).number)
