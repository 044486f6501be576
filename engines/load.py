"""Load a model and hold it against its contract: the one place where the two are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.assets import locate
from engines.backends.base import Engine
from engines.contract import BlazePoseLandmarksCodec, Contract
from engines.errors import ContractError
from engines.skeletons import load_skeleton

VALUES_PER_LANDMARK = 5  # of BlazePose: x, y, z, visibility, presence


def load_engine(contract: Contract, *, threads: int = 1, path: Path | None = None) -> Engine:
    """The engine that runs `contract`'s model, from the cache or from `path`.

    Outputs that the contract does not name are not computed.

    Raises:
        AssetError: the weights are not on this machine; the message names the command that fetches them.
        EngineError: the file is not a model.
        ContractError: the file is another model than the contract describes; both values are named.
    """
    if path is None:
        path = locate(contract.asset, name=contract.name)
    engine = _open(contract, path, threads)
    try:
        check(contract, engine, path.name)
    except ContractError:
        engine.close()
        raise
    return engine


def _open(contract: Contract, path: Path, threads: int) -> Engine:
    """The backend is imported here, so that a run loads only the libraries of its own models."""
    outputs = [output.name for output in contract.outputs.values()]
    if path.suffix == ".tflite":
        from engines.backends.litert import LitertEngine

        return LitertEngine(path, threads, outputs)
    from engines.backends.onnxruntime import OnnxEngine

    return OnnxEngine(path, threads, outputs)


def check(contract: Contract, engine: Engine, filename: str) -> None:
    """Compare the contract with the graph that was loaded from `filename`.

    Raises:
        ContractError: naming the model, what differs, the contract's value and the file's.
    """
    _check_input(contract, engine, filename)
    for role, output in contract.outputs.items():
        spec = engine.outputs.get(output.name)
        if spec is None:
            raise _mismatch(
                contract,
                f"{role} is output {output.name!r}",
                filename,
                f"has outputs {sorted(engine.outputs)}",
            )
        if not _fits(output.shape, spec.shape):
            raise _mismatch(
                contract,
                f"output {output.name!r} is {_shape(output.shape)}",
                filename,
                f"has {_shape(spec.shape)}",
            )
    _check_skeleton(contract)


def _check_input(contract: Contract, engine: Engine, filename: str) -> None:
    name = contract.input.name
    if list(engine.inputs) != [name]:
        raise _mismatch(contract, f"the input is {name!r}", filename, f"has inputs {sorted(engine.inputs)}")
    spec = engine.inputs[name]
    if spec.dtype != np.float32:
        raise _mismatch(contract, f"input {name!r} is float32", filename, f"has {spec.dtype}")
    width, height = contract.input.size
    nhwc = contract.input.layout == "nhwc"
    if not _fits((-1, height, width, 3) if nhwc else (-1, 3, height, width), spec.shape):
        raise _mismatch(
            contract,
            f"input {name!r} is {width}x{height} {contract.input.layout}",
            filename,
            f"has {_describe(spec.shape)}",
        )


def _check_skeleton(contract: Contract) -> None:
    """The codec's rows must hold the skeleton's keypoints, and the tensors must hold the codec's rows."""
    codec = contract.codec
    if not isinstance(codec, BlazePoseLandmarksCodec):
        return
    values = contract.outputs["landmarks"].shape[-1]
    if values != codec.landmarks * VALUES_PER_LANDMARK:
        raise ContractError(
            f"{contract.name}: codec says {codec.landmarks} landmarks of {VALUES_PER_LANDMARK} values, "
            f"output {contract.outputs['landmarks'].name!r} has {values} values; correct the contract"
        )
    if contract.skeleton is None:
        raise ContractError(f"{contract.name}: a pose model needs a skeleton; name one in the contract")
    keypoints = len(load_skeleton(contract.skeleton).keypoints)
    if keypoints != min(codec.auxiliary):
        raise ContractError(
            f"{contract.name}: skeleton {contract.skeleton!r} has {keypoints} keypoints, the model has "
            f"{min(codec.auxiliary)} in front of its auxiliary ones; name the skeleton it was trained with"
        )


def _fits(expected: Sequence[int], found: Sequence[int]) -> bool:
    """Whether two shapes can be the same; -1 on either side is any size."""
    return len(expected) == len(found) and all(
        e == f or -1 in (e, f) for e, f in zip(expected, found, strict=True)
    )


def _mismatch(contract: Contract, says: str, filename: str, has: str) -> ContractError:
    return ContractError(
        f"{contract.name}: contract says {says}, the file {filename} {has}; "
        "fetch the file that the contract names, or write a contract for this one"
    )


def _shape(shape: Sequence[int]) -> str:
    return "x".join("?" if n == -1 else str(n) for n in shape)


def _describe(shape: Sequence[int]) -> str:
    """An image input's shape as people say it: 224x224 nhwc."""
    if len(shape) == 4 and shape[3] == 3:
        return f"{_shape((shape[2], shape[1]))} nhwc"
    if len(shape) == 4 and shape[1] == 3:
        return f"{_shape((shape[3], shape[2]))} nchw"
    return _shape(shape)
