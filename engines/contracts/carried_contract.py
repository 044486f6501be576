"""Compare a contract with the one that a file carries inside: ONNX metadata, or a .safetensors checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engines.contracts.contract import Contract
from engines.contracts.onnx_metadata import read_contract
from engines.contracts.shapes import shapes_agree
from engines.errors import ContractError

# Where two contracts differ in one of these, the same file gives other results.
NUMBERS = ("task", "input", "outputs", "codec", "labels", "skeleton")


def check_carried(contract: Contract, path: Path) -> None:
    """Compare a contract with the one that an ONNX file carries, if it carries one.

    Raises:
        ContractError: they differ in a number, with the field and both values.
    """
    carried = read_contract(path)
    if carried is not None:
        check_same_numbers(contract, carried, path.name)


def check_same_numbers(contract: Contract, carried: Contract, filename: str) -> None:
    """Compare two contracts for the same file in everything that changes its results.

    Raises:
        ContractError: they differ, with the first field and the value in each.
    """
    ours, theirs = (it.model_dump(include={*NUMBERS}) for it in (contract, carried))
    for field, our_value, their_value in _differences("", ours, theirs):
        raise ContractError(
            f"{contract.name}: contract says {field} is {our_value}, the one inside {filename} says "
            f"{their_value}; fetch the file that the contract names, or import this file as a model of your "
            "own: posestream models import"
        )


def _differences(field: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """The fields that differ, as dotted paths, with the value in each."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            yield from _differences(f"{field}.{key}".lstrip("."), ours.get(key), theirs.get(key))
    elif field.endswith(".shape") and ours and theirs and shapes_agree(ours, theirs):
        return
    elif ours != theirs:
        yield field, ours, theirs
