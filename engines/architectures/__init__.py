"""Networks in plain PyTorch, one family a file; parameters are named as in the official checkpoints.

A family is a module with `VARIANTS` (its sizes, by name) and `build(contract)`, which gives the network that
the contract describes: its variant, its number of keypoints or classes, its input size. The network takes
(B, 3, H, W) float32, normalised, and gives a dict of tensors by the roles that the family's codec reads.
Everything here needs the extra `torch`, and nothing else in `engines` imports it at the top of a file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from engines.contracts.contract import Contract
from engines.errors import ContractError, EngineError, nearest

if TYPE_CHECKING:
    from torch import nn

FAMILIES = ("rtmpose", "rtmdet", "yolox", "hrnet", "vitpose", "sapiens")


def variants(family: str) -> tuple[str, ...]:
    """The sizes of a family, from the smallest to the largest.

    Raises:
        ContractError: there is no such family (with the nearest name).
        EngineError: PyTorch is not installed.
    """
    return tuple(_module(family).VARIANTS)


def build(contract: Contract) -> nn.Module:
    """The network that a contract describes, with random weights, in evaluation mode.

    Raises:
        ContractError: unknown family or variant, or values that the family cannot be built with.
        EngineError: PyTorch is not installed.
    """
    module = _module(contract.architecture)
    if contract.variant not in module.VARIANTS:
        hint = nearest(str(contract.variant), list(module.VARIANTS))
        raise ContractError(
            f"{contract.name}: {contract.architecture} has no variant {contract.variant!r}; {hint}"
        )
    return module.build(contract).eval()


def _module(family: str):  # type: ignore[no-untyped-def]  # modules have no type of their own
    if family not in FAMILIES:
        raise ContractError(f"no architecture {family!r}; {nearest(family, list(FAMILIES))}")
    try:
        return importlib.import_module(f"engines.architectures.{family}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise EngineError(
            f"{family} is built with PyTorch, which is not installed: pip install 'posestream[torch]'"
        ) from None
