"""Open a plan, after it was compared with ONNX Runtime on the GPU that it runs on.

A plan that was built ahead of time, for any GPU of a compute capability, is compared on each GPU and driver
that it meets; the result is written to its record.
"""

from __future__ import annotations

import logging
from pathlib import Path

from engines.comparison.reference import compare_with_reference
from engines.contracts.contract import Contract
from engines.device.names import parse_device
from engines.errors import EngineError
from engines.tensorrt.engine import TensorrtEngine
from engines.tensorrt.flavours import flavour
from engines.tensorrt.plan_files import KERNELS, Machine, Plan, Verified, this_machine

log = logging.getLogger("posestream.plans")


def open_plan(plan: Plan, contract: Contract, onnx: Path, device: str = "cuda:0") -> TensorrtEngine:
    """Load a plan on a GPU; compare it with ONNX Runtime first, unless that was done on this GPU and driver.

    Args:
        plan: that fits this machine (`ModelPlans`).
        contract: of the model.
        onnx: the graph that the plan was built from.
        device: the GPU.

    Raises:
        EngineError: the plan is damaged, the library refuses it, it is beyond the contract's tolerance, or
            there is no GPU. Each message names the command that helps.
    """
    backend = plan.key.flavour
    machine = this_machine(backend, parse_device(device).number)
    kernels = plan.path.with_suffix(KERNELS)
    engine = TensorrtEngine(flavour(backend), plan.read(), kernels, name=contract.name, device=device)
    done = plan.verified
    if done and (done.gpu, done.driver) == (machine.gpu, machine.driver):
        return engine
    log.info("%s was not verified on this GPU yet; comparing it with ONNX Runtime", plan.name)
    try:
        verified = verify_plan(contract, engine, onnx, machine)
    except EngineError:
        engine.close()
        raise
    plan.model_copy(update={"verified": verified}).write()
    return engine


def verify_plan(contract: Contract, engine: TensorrtEngine, onnx: Path, machine: Machine) -> Verified:
    """Compare an opened plan with ONNX Runtime on the CPU.

    Raises:
        EngineError: it is beyond the contract's tolerance.
    """
    comparison = compare_with_reference(contract, engine, onnx)
    if not comparison.passed:
        raise EngineError(
            f"{contract.name}: the plan is beyond the model's tolerance and is not used: "
            f"{'; '.join(comparison.lines())}; build it with --precision fp32"
        )
    return Verified(gpu=str(machine.gpu), driver=str(machine.driver), report=comparison.as_dict())
