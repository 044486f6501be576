"""Compare a checkpoint with a network; if they differ, say what differs and which size would fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.architectures import build, variants
from engines.contracts.contract import Contract
from engines.errors import ContractError

if TYPE_CHECKING:
    from torch import Tensor, nn

LISTED = 3  # entries of each kind that the message lists

Shapes = dict[str, tuple[int, ...]]


def check_fit(contract: Contract, network: nn.Module, state: dict[str, Tensor], filename: str) -> None:
    """Compare names and shapes of a checkpoint with those of the contract's network.

    Raises:
        ContractError: they differ; with the number and the first few of missing, unexpected and differently
            shaped entries, and the variant of the family that would fit.
    """
    ours, theirs = _shapes(network.state_dict()), _shapes(state)
    missing, unexpected = [n for n in ours if n not in theirs], [n for n in theirs if n not in ours]
    wrong = [
        f"{name} {_shape(shape)} instead of {_shape(ours[name])}"
        for name, shape in theirs.items()
        if name in ours and ours[name] != shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
    if any(found.values()):
        listed = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in found.items() if names)
        raise ContractError(
            f"{contract.name}: {filename} is not {contract.architecture} {contract.variant} as the contract "
            f"has it: {listed}; {_hint(contract, theirs)}"
        )


def _hint(contract: Contract, theirs: Shapes) -> str:
    """A hint: the variant of the family that has these names and shapes, or nearly."""
    import torch

    differing = {}
    for variant in variants(contract.architecture):
        with torch.device("meta"):
            network = build(contract.model_copy(update={"variant": variant}))
        differing[variant] = len(set(_shapes(network.state_dict()).items()) ^ set(theirs.items()))
    nearest = min(differing, key=differing.__getitem__)
    if differing[nearest] == 0:
        models = f"posestream models list {contract.architecture}-{nearest}"
        return f"it is variant {nearest!r}; take the contract of a model of that size: {models}"
    if differing[nearest] > len(theirs) // 2:
        return f"no size of {contract.architecture} is near it; is it another architecture?"
    if nearest != contract.variant:
        return f"variant {nearest!r} comes nearest, and keypoints, labels or input size differ too"
    return _other_input(contract, theirs) or (
        "the size is right; compare the number of keypoints or labels, and the input size"
    )


def _other_input(contract: Contract, theirs: Shapes) -> str | None:
    """A hint from a ViT's position embedding: its length is the number of patches in the trained input."""
    from engines.architectures.vit import trained_input

    patches = theirs.get("backbone.pos_embed", (1, 0))[1]
    width, height = contract.input.size
    trained = trained_input(patches, (width, height)) if patches else (width, height)
    if trained == (width, height):
        return None
    return (
        f"its position embedding is of {trained[0]}x{trained[1]} px (or as many patches in another shape), "
        f"input.size is {width}x{height}: set the size that it was trained at"
    )


def _shapes(state: dict[str, Tensor]) -> Shapes:
    return {name: tuple(it.shape) for name, it in state.items()}


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def _some(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")
