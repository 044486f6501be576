"""Put the names and sizes of a graph's tensors into a contract."""

from __future__ import annotations

from engines.backends.base import Engine, TensorSpec
from engines.contracts.contract import Contract, Output
from engines.contracts.shapes import describe_shape
from engines.errors import ContractError
from engines.images.model_input import Input


def with_graph_tensors(contract: Contract, engine: Engine, filename: str) -> Contract:
    """The contract with the names and sizes of the graph's tensors; keeps its own where the graph's vary.

    Outputs are matched by name, or by order if no names match and there are as many as the contract has. The
    result is not validated: the graph's sizes may contradict the rest of the contract.

    Raises:
        ContractError: the graph has other inputs or outputs than a model of this kind.
    """
    if len(engine.inputs) != 1:
        raise ContractError(f"{filename} has inputs {sorted(engine.inputs)}; expected one, an image")
    ((name, spec),) = engine.inputs.items()
    outputs = _by_role(contract, engine, filename)
    shapes = {role: spec.shape for role, (_, spec) in outputs.items()}
    changed = contract.model_copy(
        update={
            "input": _input(contract.input, name, spec.shape, filename),
            "codec": contract.codec.with_graph_shapes(shapes),
        }
    )
    expected = {role: shape for role, (shape, _) in changed.expected_outputs().items()}
    named = {
        role: Output(name=outputs[role][0], shape=_filled(shape, expected.get(role, ())))
        for role, shape in shapes.items()
    }
    return changed.model_copy(update={"outputs": named})


def _input(model_input: Input, name: str, shape: tuple[int, ...], filename: str) -> Input:
    nhwc = model_input.layout == "nhwc"
    if len(shape) != 4 or shape[3 if nhwc else 1] not in (3, -1):
        wanted = f"{'?x?x?x3' if nhwc else '?x3x?x?'} ({model_input.layout})"
        raise ContractError(f"{filename}: input {name!r} is {describe_shape(shape)}, expected {wanted}")
    height, width = shape[1:3] if nhwc else shape[2:4]
    found = (width, height)
    size = tuple(ours if side == -1 else side for side, ours in zip(found, model_input.size, strict=True))
    return model_input.model_copy(update={"name": name, "size": size})


def _by_role(contract: Contract, engine: Engine, filename: str) -> dict[str, tuple[str, TensorSpec]]:
    """Name and shape of the graph's output for each role in the contract."""
    names = {role: output.name for role, output in contract.outputs.items()}
    if not engine.outputs.keys() >= {*names.values()}:
        if len(names) != len(engine.outputs):
            raise ContractError(
                f"{filename} has outputs {sorted(engine.outputs)}, the model that it is like has "
                f"{sorted(names.values())}; name a model with these outputs: --like"
            )
        names = dict(zip(names, engine.outputs, strict=True))
    return {role: (name, engine.outputs[name]) for role, name in names.items()}


def _filled(shape: tuple[int, ...], expected: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with its varying sizes, except the batch, taken from the expected shape."""
    if len(shape) != len(expected):
        return shape
    return (shape[0], *(e if s == -1 else s for s, e in zip(shape[1:], expected[1:], strict=True)))
