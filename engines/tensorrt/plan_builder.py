"""Build plans and keep them on this machine, each with its record.

A plan for the GPU of this machine is compared with ONNX Runtime before it is kept. A plan that is built ahead
of time, for any GPU of a compute capability, is compared where it is first opened (`open_plan`).
"""

from __future__ import annotations

import hashlib
import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from engines.contracts.contract import Contract
from engines.device.gpus import this_gpu
from engines.errors import EngineError
from engines.home import locked, write_atomically
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
    onnx_sha256,
    output_names,
    plan_path,
    plans_home,
    read_record,
    this_machine,
)

USUAL = Batch(1, 8, 32)

log = logging.getLogger("posestream.plans")


class Built(NamedTuple):
    """A plan, and whether this call built it."""

    plan: Plan
    fresh: bool


def build_plan(
    contract: Contract,
    onnx: Path,
    backend: FlavourName,
    precision: Precision = "fp16",
    batch: Batch | None = None,
    compute_capability: str | None = None,
    progress: Progress = lambda phase, share: None,
) -> Built:
    """The plan of a model for this machine's GPU, or ahead of time for another GPU; built unless it is kept.

    Only one process builds a plan at a time. The others wait, and then find it.

    Args:
        contract: of the model.
        onnx: its graph, in FP32 or quantised to INT8.
        backend: the library that compiles and runs it.
        precision: of the plan.
        batch: sizes to run; None for 1:8:32, or for 1:1:1 where the graph is fixed to a batch of one.
        compute_capability: of the GPU to build for, such as 8.9; None for the GPU of this machine.
        progress: called with the builder's phase and the share of the build that is done, 0..1.

    Raises:
        EngineError: the library or the GPU is missing, the graph cannot be compiled, or the plan is beyond
            the contract's tolerance (it is not kept then).
        ContractError: the graph is not what the contract says.
    """
    if onnx.suffix != ".onnx":
        raise EngineError(f"{contract.name}: {backend} compiles ONNX files, {onnx.name} runs as it is")
    library = flavour(backend)
    machine = _target(backend, compute_capability)
    library.check_target(machine.compute_capability, this_gpu())
    network = Network(library, onnx, contract, precision)
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
    with locked(path.with_suffix(LOCK), f"{path.name} is being built by another process", log):
        kept = read_record(path.with_suffix(RECORD))
        if kept and kept.is_intact():
            return Built(kept, fresh=False)
        return Built(_build(contract, onnx, library, network, key, progress), fresh=True)


def _target(backend: FlavourName, compute_capability: str | None) -> Machine:
    """The machine to build for: this one, or any machine with a GPU of that compute capability."""
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
    contract: Contract, onnx: Path, library: TensorRT, network: Network, key: Key, progress: Progress
) -> Plan:
    start = time.monotonic()
    timings = plans_home() / f"timings-{key.flavour}-{key.version}-{key.compute_capability}.cache"
    content = network.compile(key.batch, key.compute_capability, timings, progress)
    build_s = time.monotonic() - start
    path = plan_path(contract.name, key)
    kernels = path.with_suffix(KERNELS)
    verified = _verified(contract, onnx, library, content, key, kernels) if key.gpu else None
    write_atomically(path, content)
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


def _verified(
    contract: Contract, onnx: Path, library: TensorRT, content: bytes, machine: Machine, kernels: Path
) -> Verified:
    """Compare a plan for this machine's GPU with ONNX Runtime.

    Raises:
        EngineError: it is beyond the contract's tolerance.
    """
    from engines.tensorrt.engine import TensorrtEngine  # needs PyTorch, which building ahead of time does not
    from engines.tensorrt.open_plan import verify_plan

    engine = TensorrtEngine(library, content, kernels, name=contract.name)
    try:
        verified = verify_plan(contract, engine, onnx, machine)
    except EngineError:
        engine.close()
        kernels.unlink(missing_ok=True)
        raise
    engine.close()
    return verified
