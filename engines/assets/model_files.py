"""The file that runs a model: the asset itself, or an export that was made from it on this machine.

Exports lie in `HOME/onnx/NAME-KEY.onnx`. The key is a hash of everything that decides what is in an export,
so an export of other weights, or for another contract, has another name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from engines.assets.store import locate
from engines.contracts.contract import Contract, load_contract
from engines.contracts.onnx_metadata import read_contract
from engines.errors import EngineError
from engines.home import cache_home

RUN_AS_THEY_ARE = {".onnx", ".tflite"}
EXPORTER = 1  # raise it when the exporter changes: older exports are then made again
IN_KEY = {"name", "task", "architecture", "variant", "input", "outputs", "codec", "labels", "skeleton"}


def runnable(contract: Contract) -> Path:
    """The file that runs `contract`'s model.

    Raises:
        AssetError: the weights are not on this machine; the message names the command that fetches them.
        EngineError: the weights are a checkpoint that was not exported yet; the message names the command.
    """
    if not is_checkpoint(contract):
        return locate(contract.asset, name=contract.name)
    exported = exported_path(contract)
    if not exported.is_file():
        locate(contract.asset, name=contract.name)
        raise EngineError(
            f"{contract.name}: {contract.asset.filename} is a checkpoint and was not exported yet; "
            f"export it once: posestream engine export {contract.name}"
        )
    return exported


def is_checkpoint(contract: Contract) -> bool:
    """Whether the model's asset holds weights without a graph."""
    return Path(contract.asset.filename).suffix not in RUN_AS_THEY_ARE


def exported_path(contract: Contract, seed: int | None = None) -> Path:
    """Where the export of a checkpoint lies, or will lie; with `seed`, the export of random weights."""
    content = contract.model_dump_json(include=IN_KEY) + str(contract.asset.sha256) + str(EXPORTER)
    key = hashlib.sha256(content.encode()).hexdigest()[:12]
    stem = contract.name if seed is None else f"{contract.name}-random-{seed}"
    return cache_home() / "onnx" / f"{stem}-{key}.onnx"


def find_model(model: str) -> tuple[Contract, Path | None]:
    """A model by its name, or by the path of an ONNX file that carries its contract.

    Returns:
        The contract, and the path if `model` is one, else None.

    Raises:
        ContractError: there is no such model (with the nearest name), or its contract is invalid.
        EngineError: there is no such file, or it carries no contract.
    """
    if not model.endswith(".onnx"):
        return load_contract(model), None
    path = Path(model)
    contract = read_contract(path)
    if contract is None:
        what = "carries no contract" if path.is_file() else "is not there"
        raise EngineError(f"{model} {what}; describe it: posestream models import {model}")
    return contract, path
