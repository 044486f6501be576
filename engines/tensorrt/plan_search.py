"""Find the plan of a model that may run on this machine, or say why each one may not."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from engines.assets.model_files import runnable
from engines.contracts.contract import Contract, load_contract
from engines.device.names import parse_device
from engines.errors import ContractError, EngineError
from engines.tensorrt.flavours import FlavourName
from engines.tensorrt.plan_files import Machine, Plan, differences, kept_plans, onnx_sha256, this_machine

NAMED_IN_ERROR = 3  # plans at most


class ModelPlans:
    """The plans of one model and ONNX file: records are read once, and the file is hashed at most once."""

    def __init__(self, contract: Contract, onnx: Path):
        self._contract, self._onnx = contract, onnx
        self._plans = [plan for plan in kept_plans() if plan.contract.name == contract.name]

    def find(self, backend: FlavourName, device: str) -> Plan | None:
        """The plan that fits this machine; of several, the one that was built last."""
        try:
            machine = this_machine(backend, parse_device(device).number)
        except EngineError:
            return None
        return next((plan for plan, reasons in self._judged(machine) if not reasons), None)

    def require(self, backend: FlavourName, device: str) -> Plan:
        """The same.

        Raises:
            EngineError: the library or the GPU is missing, none was built, or none fits, with every part that
                differs and the command that builds one.
        """
        judged = list(self._judged(this_machine(backend, parse_device(device).number)))
        if plan := next((plan for plan, reasons in judged if not reasons), None):
            return plan
        misfits = [f"{plan.name} has {'; '.join(reasons)}" for plan, reasons in judged[:NAMED_IN_ERROR]]
        name, found = self._contract.name, " | ".join(misfits) or "none was built"
        raise EngineError(
            f"{name}: {backend} has no plan that fits ({found}); "
            f"build one: posestream engine build {name} --backend {backend}"
        )

    def _judged(self, machine: Machine) -> Iterator[tuple[Plan, list[str]]]:
        """The plans of the machine's flavour, the newest first, each with the reasons why it may not run."""
        for plan in self._plans:
            if plan.key.flavour == machine.flavour:
                yield plan, differences(plan.key, machine, self._contract, self._checksum)

    @functools.cached_property
    def _checksum(self) -> str:
        return onnx_sha256(self._onnx)


class Usability(NamedTuple):
    """Whether a plan may run on this machine."""

    reasons: list[str]  # why not; empty if it may
    stale: bool  # it will run nowhere with what is installed now, so it can be deleted


def judge_plans(plans: list[Plan]) -> list[Usability]:
    """Whether each plan may run here, in the same order; each ONNX file is hashed once."""
    checksum = functools.cache(onnx_sha256)
    judged = []
    for plan in plans:
        try:
            machine = this_machine(plan.key.flavour)
        except EngineError as error:
            judged.append(Usability([str(error).partition(";")[0]], stale=False))
            continue
        contract, sources = _current_model(plan)
        checksums = [checksum(path) for path in sources if path.is_file()]
        onnx = plan.key.onnx_sha256 if plan.key.onnx_sha256 in checksums else next(iter(checksums), None)
        reasons = differences(plan.key, machine, contract, onnx)
        for_another_gpu = plan.key.gpu is None and plan.key.compute_capability != machine.compute_capability
        judged.append(Usability(reasons, stale=bool(reasons) and not for_another_gpu))
    return judged


def _current_model(plan: Plan) -> tuple[Contract, list[Path]]:
    """The contract of a plan's model as it is now, and the ONNX files that the plan may belong to.

    These are the model's own file, and the file that the plan was built from.
    """
    try:
        contract = load_contract(plan.contract.name)
    except ContractError:
        return plan.contract, [plan.onnx]
    try:
        return contract, [runnable(contract), plan.onnx]
    except EngineError:
        return contract, [plan.onnx]
