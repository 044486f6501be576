"""A plan on this machine: the compiled file, and beside it a record of what it was built from and for.

Both lie in `HOME/plans`. The record's key holds everything that decides what is in the plan. A plan may run
only if every part of its key matches the model and the machine as they are now.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from engines.contracts.contract import Contract
from engines.device.gpus import this_gpu
from engines.errors import EngineError
from engines.home import cache_home, write_atomically
from engines.tensorrt.flavours import FlavourName, flavour
from engines.tensorrt.network import Batch, Precision

BUILDER = 1  # raise it when the way of building changes: older plans are then no longer used
PLAN, RECORD, KERNELS, LOCK = ".plan", ".json", ".kernels", ".lock"
PARTS = {
    "onnx_sha256": "ONNX file",
    "input_size": "input size",
    "outputs": "outputs",
    "version": "version",
    "builder": "way of building",
    "compute_capability": "compute capability",
    "gpu": "GPU",
    "driver": "driver",
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Machine(_Strict):
    """What a plan depends on, apart from the model; GPU and driver are None if any will do."""

    flavour: FlavourName
    version: str
    compute_capability: str
    gpu: str | None
    driver: str | None
    builder: int = BUILDER


class Key(Machine):
    """Everything that decides what is in a plan."""

    onnx_sha256: str
    input_size: tuple[int, int]
    outputs: tuple[str, ...]  # sorted names; the graph's other outputs were removed
    precision: Precision
    batch: Batch

    def digest(self) -> str:
        """Twelve hex digits, different for different keys."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


class Verified(_Strict):
    """A comparison with the reference that the plan passed, and on which GPU and driver."""

    gpu: str
    driver: str
    report: dict[str, Any]


class Plan(_Strict):
    """The record beside a plan."""

    key: Key
    contract: Contract
    onnx: Path  # it was built from this file
    sha256: str
    size: int  # bytes
    built: datetime
    build_s: float
    layers: int
    verified: Verified | None = None

    @property
    def path(self) -> Path:
        """Where the compiled file lies."""
        return plan_path(self.contract.name, self.key)

    @property
    def name(self) -> str:
        """The compiled file's name."""
        return self.path.name

    def read(self) -> bytes:
        """The compiled file.

        Raises:
            EngineError: it is damaged or gone; the message names the command that builds it again.
        """
        content = self.path.read_bytes() if self.path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != self.sha256:
            state = f"is damaged ({len(content)} bytes of {self.size})" if content else "is gone"
            raise EngineError(f"{self.name} {state}; build it again: {self.command()}")
        return content

    def is_intact(self) -> bool:
        """Whether the compiled file is as it was built."""
        try:
            return bool(self.read())
        except EngineError:
            return False

    def command(self) -> str:
        """The command that builds this plan again."""
        options = f"--backend {self.key.flavour} --precision {self.key.precision} --batch {self.key.batch}"
        target = "" if self.key.gpu else f" --compute-capability {self.key.compute_capability}"
        return f"posestream engine build {self.contract.name} {options}{target}"

    def write(self) -> None:
        """Write the record; without one, the compiled file is ignored."""
        write_atomically(self.path.with_suffix(RECORD), self.model_dump_json(indent=2).encode())

    def delete(self) -> None:
        """Delete the compiled file and everything that belongs to it."""
        for suffix in (RECORD, PLAN, KERNELS, LOCK):  # the record first: without it the rest is ignored
            self.path.with_suffix(suffix).unlink(missing_ok=True)


def plans_home() -> Path:
    """The folder of all plans."""
    return cache_home() / "plans"


def plan_path(model: str, key: Key) -> Path:
    """Where the plan with this key lies, or will lie."""
    return plans_home() / f"{model}-{key.precision}-{key.digest()}{PLAN}"


def kept_plans() -> list[Plan]:
    """All plans whose record can be read, the newest first."""
    plans = (read_record(path) for path in plans_home().glob(f"*{RECORD}"))
    return sorted((plan for plan in plans if plan), key=lambda plan: plan.built, reverse=True)


def read_record(path: Path) -> Plan | None:
    """Read a record; None if it is missing, damaged, or written by another version of posestream."""
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def onnx_sha256(path: Path) -> str:
    """The checksum of an ONNX file, with the weights in `PATH.data` beside it if there are any."""
    digest = hashlib.sha256()
    for part in (path, path.with_name(f"{path.name}.data")):
        if part.is_file():
            with part.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def this_machine(name: FlavourName, gpu: int = 0) -> Machine:
    """This machine as plans see it: the installed version of a flavour, and the GPU of that number.

    Raises:
        EngineError: the flavour is not installed, or there is no such GPU.
    """
    version, found = flavour(name).version, this_gpu(gpu)
    if found is None:
        raise EngineError(
            f"{name}: no CUDA device found; check that nvidia-smi lists one and that CUDA_VISIBLE_DEVICES "
            "does not hide it, or take --backend onnxruntime"
        )
    return Machine(
        flavour=name,
        version=version,
        compute_capability=found.compute_capability,
        gpu=found.name,
        driver=found.driver,
    )


def output_names(contract: Contract) -> tuple[str, ...]:
    """The names of the outputs that a model's plan has, sorted."""
    return tuple(sorted(output.name for output in contract.outputs.values()))


def differences(key: Key, machine: Machine, contract: Contract, onnx: str | None) -> list[str]:
    """Why a plan may not run: each part of its key that differs, with both values; empty if it may.

    Args:
        key: of the plan.
        machine: to run it on.
        contract: of the model to run.
        onnx: the checksum of the model's ONNX file; None if there is no file.
    """
    model = {
        "onnx_sha256": onnx,
        "input_size": contract.input.size,
        "outputs": output_names(contract),
    }
    here = machine.model_dump() | model
    found = []
    for part, words in PARTS.items():
        has, wants = getattr(key, part), here[part]
        any_will_do = part in ("gpu", "driver") and has is None
        if has != wants and not any_will_do:
            found.append(f"{words} {_short(has)}, here {_short(wants)}")
    return found


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return ("x" if isinstance(value[0], int) else ", ").join(map(str, value))
    text = "none" if value is None else str(value)
    return f"{text[:12]}…" if len(text) == 64 else text  # a checksum
