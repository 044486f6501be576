"""Networks in plain PyTorch, one family a file; parameters are named as in the official checkpoints.

To add a family, write its file here and add one line to `FAMILIES`. The file is a module with `VARIANTS`
(the sizes by name, smallest first) and `build(contract)`, which returns the network for the contract's
variant, input size, and number of keypoints or classes. The network takes (B, 3, H, W) float32, normalised,
and returns a dict of tensors by the roles that the contract's codec reads.

Imports `codecs` and `contracts`. The networks need the extra `torch`; a network's file is imported only when
it is built or its sizes are listed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from engines.contracts.contract import Contract
from engines.errors import ContractError, EngineError, nearest

if TYPE_CHECKING:
    from torch import nn

# One line a family: its file in this folder.
FAMILIES = (
    "rtmpose",
    "rtmdet",
    "yolox",
    "hrnet",
    "vitpose",
    "sapiens",
)


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
        ContractError: unknown family or variant, or numbers with which the family cannot be built.
        EngineError: PyTorch is not installed.
    """
    module = _module(contract.architecture)
    if contract.variant not in module.VARIANTS:
        hint = nearest(str(contract.variant), list(module.VARIANTS))
        raise ContractError(
            f"{contract.name}: {contract.architecture} has no variant {contract.variant!r}; {hint}"
        )
    return module.build(contract).eval()


def _module(family: str):  # type: ignore[no-untyped-def]  # a module's attributes have no types
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
