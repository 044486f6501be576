"""Import a model of the user's own: make its contract and keep it in `HOME/models/NAME.yaml`.

Names and shapes of tensors come from the file. The other numbers (mean, std, padding, codec) come from the
contract that the file carries, or from a ready model that it is like.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import yaml

from engines.architectures.checkpoints import load_weights, read_checkpoint_contract
from engines.assets.store import cached_path, sha256
from engines.backends.base import Engine
from engines.contracts.carried_contract import check_same_numbers
from engines.contracts.config_files import check_config, find_config
from engines.contracts.contract import Asset, Contract, FileSource, Output, available_models, load_contract
from engines.contracts.onnx_metadata import read_contract
from engines.conversion.contract_from_graph import with_graph_tensors
from engines.errors import AssetError, ContractError, EngineError
from engines.home import cache_home

GRAPHS, CHECKPOINTS = (".onnx", ".tflite"), (".pth", ".pt", ".safetensors")


def import_model(
    file: Path,
    name: str | None = None,
    *,
    like: str | None = None,
    architecture: str | None = None,
    variant: str | None = None,
    skeleton: str | None = None,
) -> Contract:
    """Make the contract of a model file, and write it where `load_contract` finds it.

    Args:
        file: a graph (.onnx, .tflite), a checkpoint (.pth, .safetensors, .pt), or an ultralytics .pt, which
            is exported.
        name: of the new model; the file's name by default.
        like: the ready model whose numbers it was trained with.
        architecture: in place of `like`, together with `variant`: take the numbers from the ready models of
            this architecture and size that the file fits, if they all have the same.
        variant: see `architecture`.
        skeleton: if it is not the skeleton of the model that it is like.

    Raises:
        AssetError: there is no such file.
        ContractError: the name is taken; or the model's numbers are unknown, or two sources of them disagree.
        EngineError: the file is not a model, or its weights do not fit the architecture.
    """
    if not file.is_file():
        raise AssetError(f"{file}: no such file")
    if file.suffix not in GRAPHS + CHECKPOINTS:
        raise ContractError(f"{file.name}: expected a file named {', '.join(GRAPHS + CHECKPOINTS)}")
    name = name or re.sub(r"[^a-z0-9.]+", "-", file.stem.lower()).strip("-.")
    _refuse_taken(name)
    file = file.resolve()
    if file.suffix == ".pt" and not (like or architecture):
        base, file = _exported(file, name, skeleton)
    else:
        base = _base(file, like, architecture, variant, skeleton)
    contract = _with_file_tensors(_for_file(base, file, name), file)
    own_path(name).parent.mkdir(parents=True, exist_ok=True)
    data = contract.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None)
    own_path(name).write_text(f"# Made by posestream models import, like {base.name}.\n{text}", "utf-8")
    return contract


def remove_model(name: str) -> None:
    """Remove an imported model: its contract, and its weights from the cache if no other model has them.

    Raises:
        ContractError: there is no such model, or it is a ready one.
    """
    if find_config("models", name) != own_path(name):
        raise ContractError(f"{name} is a ready model; only imported models are removed")
    weights = cached_path(load_contract(name).asset)
    others = (load_contract(other).asset for other in available_models() if other != name)
    if weights not in map(cached_path, others):  # a file can be imported under several names
        weights.unlink(missing_ok=True)
    own_path(name).with_suffix(".onnx").unlink(missing_ok=True)
    own_path(name).unlink()
    load_contract.cache_clear()


def own_path(name: str) -> Path:
    """Where the contract of an imported model lies, or would lie."""
    return cache_home() / "models" / f"{name}.yaml"


def _refuse_taken(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ContractError(
            f"{name!r}: a name may have small letters, digits, dots and dashes; give one: --name"
        )
    if own_path(name).is_file():
        raise ContractError(f"you have a model {name!r}; remove it first: posestream models remove {name}")
    if name in available_models():
        raise ContractError(f"{name!r} is the name of a ready model; give another: --name")


def _exported(file: Path, name: str, skeleton: str | None) -> tuple[Contract, Path]:
    """Export an ultralytics model; returns its contract and the ONNX file, which is kept."""
    from engines.conversion.import_ultralytics import import_pt

    graph = own_path(name).with_suffix(".onnx")
    graph.parent.mkdir(parents=True, exist_ok=True)
    return import_pt(file, graph, skeleton=skeleton), graph


def _base(
    file: Path, like: str | None, architecture: str | None, variant: str | None, skeleton: str | None
) -> Contract:
    """The contract from which the numbers are taken that the file itself does not have."""
    carried = _carried(file)
    if like or architecture:
        base = load_contract(like) if like else _fitting(file, str(architecture), variant, skeleton)
        described = {
            "title": f"{file.name}, like {base.name}",
            "licence": "not stated",
            "homepage": "not stated",
        }
        base = base.model_copy(update=described)
    elif carried:
        base = carried
    else:
        raise ContractError(
            f"{file.name} carries no contract; name a model that it is like (posestream "
            "models list): --like NAME, or --architecture and --variant"
        )
    if skeleton and skeleton != base.skeleton:
        base = _with_skeleton(base, skeleton)
    if carried:
        check_same_numbers(base, carried, file.name)
    return base


def _carried(file: Path) -> Contract | None:
    """The contract inside an ONNX or safetensors file; None if it carries none."""
    return read_checkpoint_contract(file) if file.suffix in CHECKPOINTS else read_contract(file)


def _fitting(file: Path, architecture: str, variant: str | None, skeleton: str | None) -> Contract:
    """A ready model of this architecture and size that the file fits; all that fit have the same numbers."""
    models = [load_contract(name) for name in available_models()]
    fitting = [it for it in models if (it.architecture, it.variant) == (architecture, variant)]
    if not fitting:
        known = sorted({f"{it.architecture} {it.variant}" for it in models if it.variant})
        asked = " ".join(filter(None, (architecture, variant)))
        raise ContractError(f"no model {asked!r}, expected --architecture and --variant: {', '.join(known)}")
    if not _agree(fitting):
        fitting = [it for it in fitting if it.skeleton == skeleton] or fitting
    if not _agree(fitting):
        fitting = [it for it in fitting if _fits(it, file)] or fitting
    if not _agree(fitting):
        names = ", ".join(it.name for it in fitting)
        raise ContractError(
            f"the models {architecture} {variant} differ in input or codec; name the model that it is like, "
            f"--like, one of {names}"
        )
    return fitting[0]


def _agree(contracts: list[Contract]) -> bool:
    """Whether all have the same input and codec."""
    return len({it.model_dump_json(include={"input", "codec"}) for it in contracts}) == 1


def _fits(contract: Contract, file: Path) -> bool:
    try:
        return _with_file_tensors(contract, file).input.size == contract.input.size
    except EngineError:
        return False


def _with_skeleton(contract: Contract, skeleton: str) -> Contract:
    """The same model for other keypoints: its outputs get as many rows as the skeleton has keypoints."""
    changed = contract.model_copy(update={"skeleton": skeleton})
    outputs = dict(changed.outputs)
    for role, (shape, _) in changed.expected_outputs().items():
        pairs = zip(shape, outputs[role].shape, strict=True)
        shape = tuple(old if new == -1 else new for new, old in pairs)
        outputs[role] = Output(name=outputs[role].name, shape=shape)
    return changed.model_copy(update={"outputs": outputs})


def _for_file(base: Contract, file: Path, name: str) -> Contract:
    """`base` with this file's name and weights."""
    asset = Asset(
        filename=file.name,
        sha256=sha256(file),
        sha256_from="copy",
        bytes=file.stat().st_size,
        sources=[FileSource(url=str(file))],
    )
    return base.model_copy(update={"name": name, "asset": asset})


def _with_file_tensors(contract: Contract, file: Path) -> Contract:
    """The contract with a graph's names and sizes; a checkpoint is loaded as a test, with PyTorch."""
    if file.suffix in GRAPHS:
        engine = _open(file)
        try:
            contract = with_graph_tensors(contract, engine, file.name)
        finally:
            engine.close()
    contract = check_config(Contract, contract.model_dump(), file.name)
    if file.suffix in CHECKPOINTS and importlib.util.find_spec("torch"):
        load_weights(contract, file)
    return contract


def _open(file: Path) -> Engine:
    if file.suffix == ".tflite":
        from engines.backends.litert import LitertEngine

        return LitertEngine(file)
    from engines.backends.onnxruntime import OnnxEngine

    return OnnxEngine(file)
