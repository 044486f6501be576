"""Compare a loaded graph with its contract: names, sizes and types of its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from engines.backends.base import Engine
from engines.contracts.contract import Contract
from engines.contracts.shapes import describe_shape, shapes_agree
from engines.errors import ContractError


def check_graph(contract: Contract, engine: Engine, filename: str) -> None:
    """Compare the contract with the graph that was loaded from `filename`.

    Raises:
        ContractError: the contract contradicts itself; or it and the graph differ, with the model's name and
            every difference, each with the contract's value and the file's.
    """
    if problem := contract.contradiction():
        raise ContractError(problem)
    _check_names(contract, engine, filename)
    differences = [*_input_differences(contract, engine), *_output_differences(contract, engine)]
    if differences:
        in_contract, in_file = zip(*differences, strict=True)
        raise _mismatch(contract, ", ".join(in_contract), filename, f"has {', '.join(in_file)}")


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
    """(what the contract says, what the file has) for an input of another size."""
    name, (width, height) = contract.input.name, contract.input.size
    nhwc = contract.input.layout == "nhwc"
    shape = engine.inputs[name].shape
    if not shapes_agree((-1, height, width, 3) if nhwc else (-1, 3, height, width), shape):
        yield f"input {name!r} is {width}x{height} {contract.input.layout}", _describe_image(shape)


def _output_differences(contract: Contract, engine: Engine) -> Iterator[tuple[str, str]]:
    """(what the contract says, what the file has) for each output of another shape."""
    for output in contract.outputs.values():
        shape = engine.outputs[output.name].shape
        if not shapes_agree(output.shape, shape):
            yield f"output {output.name!r} is {describe_shape(output.shape)}", describe_shape(shape)


def _mismatch(contract: Contract, in_contract: str, filename: str, in_file: str) -> ContractError:
    return ContractError(
        f"{contract.name}: contract says {in_contract}, the file {filename} {in_file}; "
        "fetch the file that the contract names, or write a contract for this one"
    )


def _describe_image(shape: Sequence[int]) -> str:
    """An image input's shape as width x height and layout: 224x224 nhwc."""
    if len(shape) == 4 and shape[3] == 3:
        return f"{describe_shape((shape[2], shape[1]))} nhwc"
    if len(shape) == 4 and shape[1] == 3:
        return f"{describe_shape((shape[3], shape[2]))} nchw"
    return describe_shape(shape)
