"""The files that are run: an asset itself, or what was exported from it on this machine.

Exports lie in `HOME/onnx/NAME-KEY.onnx`; the key comes from all that decides what is in them, so that an
export of other weights, or for another contract, is never mistaken for this one.
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
EXPORTER = 1  # raise it when the exporter writes other graphs than before
DECIDING = {"name", "task", "architecture", "variant", "input", "outputs", "codec", "labels", "skeleton"}


def runnable(contract: Contract) -> Path:
    """The file that runs `contract`'s model.

    Raises:
        AssetError: the weights are not on this machine; the message names the command that fetches them.
        EngineError: the weights are a checkpoint that was not exported yet; likewise.
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
    """Whether the model's asset holds weights alone, and no graph."""
    return Path(contract.asset.filename).suffix not in RUN_AS_THEY_ARE


def exported_path(contract: Contract, seed: int | None = None) -> Path:
    """Where the export of a checkpoint lies, or will lie; with `seed`, that of weights drawn at random."""
    deciding = contract.model_dump_json(include=DECIDING) + str(contract.asset.sha256) + str(EXPORTER)
    key = hashlib.sha256(deciding.encode()).hexdigest()[:12]
    marked = contract.name if seed is None else f"{contract.name}-random-{seed}"
    return cache_home() / "onnx" / f"{marked}-{key}.onnx"


def find_model(model: str) -> tuple[Contract, Path | None]:
    """A model by its name, or by the path of an ONNX file that carries its contract.

    Returns:
        The contract; and the file, if it was given.

    Raises:
        ContractError: there is no such model (with the nearest name), or its contract is invalid.
        EngineError: the file is not there, or carries no contract.
    """
    if not model.endswith(".onnx"):
        return load_contract(model), None
    path = Path(model)
    contract = read_contract(path)
    if contract is None:
        what = "carries no contract" if path.is_file() else "is not there"
        raise EngineError(f"{model} {what}; describe it: posestream models import {model}")
    return contract, path
