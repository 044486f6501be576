"""Hold a loaded model against its contract: the one place where the two are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.base import Engine
from engines.contracts.contract import Contract
from engines.contracts.onnx_metadata import read_contract
from engines.contracts.shapes import describe_shape, shapes_agree
from engines.errors import ContractError

# What a model's numbers are: where two contracts differ in these, the same file gives other results.
NUMBERS = ("task", "input", "outputs", "codec", "labels", "skeleton")


def check(contract: Contract, engine: Engine, filename: str) -> None:
    """Compare the contract with the graph that was loaded from `filename`.

    Raises:
        ContractError: the contract contradicts itself; or it and the graph differ, with the model's name and
            all that differs, as the contract has it and as the file has it.
    """
    if found := contract.contradiction():
        raise ContractError(found)
    _check_names(contract, engine, filename)
    differences = [*_input_differences(contract, engine), *_output_differences(contract, engine)]
    if differences:
        says, has = zip(*differences, strict=True)
        raise _mismatch(contract, ", ".join(says), filename, f"has {', '.join(has)}")


def check_carried(contract: Contract, path: Path) -> None:
    """Compare the contract with the one that the ONNX file carries, if it does.

    Raises:
        ContractError: they differ in a number, with the field and both values.
    """
    carried = read_contract(path)
    if carried is not None:
        compare(contract, carried, path.name)


def compare(contract: Contract, carried: Contract, filename: str) -> None:
    """Compare two contracts of the same file in all that changes its results.

    Raises:
        ContractError: with the field, and the value in each.
    """
    ours, theirs = (it.model_dump(include={*NUMBERS}) for it in (contract, carried))
    for field, our, their in _different("", ours, theirs):
        raise ContractError(
            f"{contract.name}: contract says {field} is {our}, the one inside {filename} says {their}; "
            "fetch the file that the contract names, or run this one by its own: posestream models import"
        )


def _check_names(contract: Contract, engine: Engine, filename: str) -> None:
    name = contract.input.name
    if list(engine.inputs) != [name]:
        raise _mismatch(contract, f"the input is {name!r}", filename, f"has inputs {sorted(engine.inputs)}")
    if (dtype := engine.inputs[name].dtype) != np.float32:
        raise _mismatch(contract, f"input {name!r} is float32", filename, f"has {dtype}")
    for role, output in contract.outputs.items():
        if output.name not in engine.outputs:
            raise _mismatch(
                contract,
                f"{role} is output {output.name!r}",
                filename,
                f"has outputs {sorted(engine.outputs)}",
            )


def _input_differences(contract: Contract, engine: Engine) -> Iterator[tuple[str, str]]:
    name, (width, height) = contract.input.name, contract.input.size
    nhwc = contract.input.layout == "nhwc"
    shape = engine.inputs[name].shape
    if not shapes_agree((-1, height, width, 3) if nhwc else (-1, 3, height, width), shape):
        yield f"input {name!r} is {width}x{height} {contract.input.layout}", _describe_image(shape)


def _output_differences(contract: Contract, engine: Engine) -> Iterator[tuple[str, str]]:
    for output in contract.outputs.values():
        shape = engine.outputs[output.name].shape
        if not shapes_agree(output.shape, shape):
            yield f"output {output.name!r} is {describe_shape(output.shape)}", describe_shape(shape)


def _different(field: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """The fields in which two descriptions differ, as paths, and the value in each."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            yield from _different(f"{field}.{key}".lstrip("."), ours.get(key), theirs.get(key))
    elif field.endswith(".shape") and ours and theirs and shapes_agree(ours, theirs):
        return
    elif ours != theirs:
        yield field, ours, theirs


def _mismatch(contract: Contract, says: str, filename: str, has: str) -> ContractError:
    return ContractError(
        f"{contract.name}: contract says {says}, the file {filename} {has}; "
        "fetch the file that the contract names, or write a contract for this one"
    )


def _describe_image(shape: Sequence[int]) -> str:
    """An image input's shape as people say it: 224x224 nhwc."""
    if len(shape) == 4 and shape[3] == 3:
        return f"{describe_shape((shape[2], shape[1]))} nhwc"
    if len(shape) == 4 and shape[1] == 3:
        return f"{describe_shape((shape[3], shape[2]))} nchw"
    return describe_shape(shape)
