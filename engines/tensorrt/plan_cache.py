"""Build plans, find the one that fits, and open it: compiled engines, kept on this machine.

A plan that was built for the GPU that is here is compared with ONNX Runtime before it is kept. One that was
built ahead of time, for any GPU of a compute capability, is compared on each GPU and driver that it meets.
"""

from __future__ import annotations

import hashlib
import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engines.assets.model_files import runnable
from engines.contracts.contract import Contract, load_contract
from engines.device.gpus import gpu_index, this_gpu
from engines.errors import ContractError, EngineError
from engines.home import alone, write_whole
from engines.tensorrt.flavours import FlavourName, TensorRT, flavour
from engines.tensorrt.network import ONE, Batch, Network, Precision, Progress
from engines.tensorrt.plan_files import (
    KERNELS,
    LOCK,
    RECORD,
    Key,
    Machine,
    Plan,
    Verified,
    differences,
    kept_plans,
    onnx_sha256,
    output_names,
    plan_path,
    plans_home,
    read_record,
    this_machine,
)

if TYPE_CHECKING:
    from engines.tensorrt.engine import TensorrtEngine

USUAL = Batch(1, 8, 32)

log = logging.getLogger("posestream.plans")


class Built(NamedTuple):
    """A plan, and whether this call built it."""

    plan: Plan
    fresh: bool


class Standing(NamedTuple):
    """Why a plan may not run here, empty if it may; stale: nor will it anywhere, with what is installed."""

    why: list[str]
    stale: bool


def build_plan(
    contract: Contract,
    onnx: Path,
    backend: FlavourName,
    precision: Precision = "fp16",
    batch: Batch | None = None,
    compute_capability: str | None = None,
    progress: Progress = lambda phase, share: None,
) -> Built:
    """The plan of a model for this machine's GPU, or ahead of time for another; built unless it is here.

    Only one process builds a plan at a time; the others wait, and then find it.

    Args:
        contract: of the model.
        onnx: its graph, in FP32, or quantised.
        backend: what shall run it.
        precision: of the plan.
        batch: sizes to run; None for 1:8:32, or for 1:1:1 where the graph is fixed to one.
        compute_capability: of a GPU that is not here; None for the one that is.
        progress: told of the builder's progress.

    Raises:
        EngineError: the library or the GPU is missing, the graph cannot be compiled, or the plan is beyond
            the contract's tolerance, and then it is not kept.
        ContractError: the graph is not what the contract says.
    """
    if onnx.suffix != ".onnx":
        raise EngineError(f"{contract.name}: {backend} compiles ONNX files, {onnx.name} runs as it is")
    flavoured = flavour(backend)
    machine = _target(backend, compute_capability)
    flavoured.check_target(machine.compute_capability, this_gpu())
    network = Network(flavoured, onnx, contract, precision)
    if network.fixed and batch not in (None, ONE):
        raise EngineError(
            f"{onnx.name} is fixed to a batch of one, so it cannot run {batch}; leave out --batch"
        )
    key = Key(
        **machine.model_dump(),
        onnx_sha256=onnx_sha256(onnx),
        input_size=contract.input.size,
        outputs=output_names(contract),
        precision=precision,
        batch=ONE if network.fixed else batch or USUAL,
    )
    path = plan_path(contract.name, key)
    with alone(path.with_suffix(LOCK), f"{path.name} is being built by another process", log):
        kept = read_record(path.with_suffix(RECORD))
        if kept and kept.is_whole():
            return Built(kept, fresh=False)
        return Built(_build(contract, onnx, flavoured, network, key, progress), fresh=True)


def find_plan(contract: Contract, onnx: Path, backend: FlavourName, device: str = "cuda:0") -> Plan | None:
    """The plan that `open_plan` would open: of those that fit, the one that was built last."""
    try:
        judged = _judged(contract, onnx, this_machine(backend, gpu_index(device)))
    except EngineError:
        return None
    return next((plan for plan, why in judged if not why), None)


def open_plan(contract: Contract, onnx: Path, backend: FlavourName, device: str = "cuda:0") -> TensorrtEngine:
    """The plan of a model, loaded on a GPU; first compared with ONNX Runtime if that was not done there yet.

    Raises:
        EngineError: none was built, none fits (with every part that differs), it is damaged, it is beyond the
            contract's tolerance, or there is no GPU. Each names the command that helps.
    """
    from engines.tensorrt.engine import TensorrtEngine

    machine = this_machine(backend, gpu_index(device))
    judged = _judged(contract, onnx, machine)
    plan = next((plan for plan, why in judged if not why), None)
    if plan is None:
        told = [f"{plan.name} has {'; '.join(why)}" for plan, why in judged[:3]] or ["none was built"]
        raise EngineError(
            f"{contract.name}: {backend} has no plan that fits ({' | '.join(told)}); "
            f"build one: posestream engine build {contract.name} --backend {backend}"
        )
    kernels = plan.path.with_suffix(KERNELS)
    engine = TensorrtEngine(flavour(backend), plan.read(), kernels, name=contract.name, device=device)
    done = plan.verified
    if done and (done.gpu, done.driver) == (machine.gpu, machine.driver):
        return engine
    log.info("%s was not verified on this GPU yet; comparing it with ONNX Runtime", plan.name)
    try:
        verified = _verify(contract, engine, onnx, machine)
    except EngineError:
        engine.close()
        raise
    plan.model_copy(update={"verified": verified}).write()
    return engine


def standing(plan: Plan) -> Standing:
    """Whether a plan may run here, and if not, why."""
    try:
        machine = this_machine(plan.key.flavour)
    except EngineError as error:
        return Standing([str(error).partition(";")[0]], stale=False)
    contract, sources = _model(plan)
    checksums = [onnx_sha256(path) for path in sources if path.is_file()]
    onnx = plan.key.onnx_sha256 if plan.key.onnx_sha256 in checksums else next(iter(checksums), None)
    why = differences(plan.key, machine, contract, onnx)
    foreign = plan.key.gpu is None and plan.key.compute_capability != machine.compute_capability
    return Standing(why, stale=bool(why) and not foreign)


def _model(plan: Plan) -> tuple[Contract, list[Path]]:
    """A plan's contract by now, and the ONNX files that it may stand for: the model's, and its own source."""
    try:
        contract = load_contract(plan.contract.name)
    except ContractError:
        return plan.contract, [plan.onnx]
    try:
        return contract, [runnable(contract), plan.onnx]
    except EngineError:
        return contract, [plan.onnx]


def _target(backend: FlavourName, compute_capability: str | None) -> Machine:
    """The machine to build for: this one, or any with a GPU of that compute capability."""
    gpu = this_gpu()
    if gpu and compute_capability in (None, gpu.compute_capability):
        return this_machine(backend)
    if compute_capability is None:
        raise EngineError(
            f"{backend}: no CUDA device found; build on the machine that has the GPU, or ahead of time for "
            "another: --backend tensorrt-rtx --compute-capability 8.9 (nvidia-smi --query-gpu=compute_cap)"
        )
    version = flavour(backend).version
    return Machine(
        flavour=backend, version=version, compute_capability=compute_capability, gpu=None, driver=None
    )


def _build(
    contract: Contract, onnx: Path, flavoured: TensorRT, network: Network, key: Key, progress: Progress
) -> Plan:
    start = time.monotonic()
    timings = plans_home() / f"timings-{key.flavour}-{key.version}-{key.compute_capability}.cache"
    content = network.compile(key.batch, key.compute_capability, timings, progress)
    build_s = time.monotonic() - start
    path = plan_path(contract.name, key)
    verified = None
    if key.gpu:
        from engines.tensorrt.engine import TensorrtEngine

        kernels = path.with_suffix(KERNELS)
        engine = TensorrtEngine(flavoured, content, kernels, name=contract.name)
        try:
            verified = _verify(contract, engine, onnx, key)
        except EngineError:
            engine.close()
            kernels.unlink(missing_ok=True)
            raise
        engine.close()
    write_whole(path, content)
    plan = Plan(
        key=key,
        contract=contract,
        onnx=onnx.resolve(),
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        built=datetime.now(UTC),
        build_s=round(build_s, 3),
        layers=network.layers,
        verified=verified,
    )
    plan.write()
    return plan


def _verify(contract: Contract, engine: TensorrtEngine, onnx: Path, machine: Machine) -> Verified:
    """Compare a plan with ONNX Runtime on the CPU.

    Raises:
        EngineError: it is beyond the contract's tolerance.
    """
    from engines.comparison.compare import verify_engine

    report = verify_engine(contract, engine, onnx)
    if not report.passed:
        raise EngineError(
            f"{contract.name}: the plan is beyond the model's tolerance and is not used: "
            f"{'; '.join(report.lines())}; build it with --precision fp32"
        )
    return Verified(gpu=str(machine.gpu), driver=str(machine.driver), report=report.as_dict())


def _judged(contract: Contract, onnx: Path, machine: Machine) -> list[tuple[Plan, list[str]]]:
    """The model's plans of a flavour, the newest first, and why each may not run here."""
    plans = [
        plan
        for plan in kept_plans()
        if plan.contract.name == contract.name and plan.key.flavour == machine.flavour
    ]
    checksum = onnx_sha256(onnx) if plans else None
    return [(plan, differences(plan.key, machine, contract, checksum)) for plan in plans]
