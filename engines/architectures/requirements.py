"""What a family demands of a contract before it can be built: its codec, sides that divide, what to find."""

from __future__ import annotations

from typing import TypeVar, get_args

from pydantic import BaseModel

from engines.contracts.contract import Contract
from engines.contracts.skeletons import load_skeleton
from engines.errors import ContractError

Codec = TypeVar("Codec", bound=BaseModel)


def codec_of(contract: Contract, codec: type[Codec]) -> Codec:
    """The contract's codec, which must be of that type.

    Raises:
        ContractError: with the codec that it is, and the one that reads this family.
    """
    if not isinstance(contract.codec, codec):
        (kind,) = get_args(codec.model_fields["kind"].annotation)
        raise ContractError(
            f"{_where(contract)}: its outputs are read by the codec {kind!r}, but codec.kind is "
            f"{contract.codec.kind!r}; set it to {kind!r}"
        )
    return contract.codec


def keypoints_of(contract: Contract) -> int:
    """K, the keypoints of the contract's skeleton.

    Raises:
        ContractError: it names none.
    """
    if contract.skeleton is None:
        raise ContractError(
            f"{_where(contract)}: a pose model needs `skeleton`, which says how many keypoints it has"
        )
    return len(load_skeleton(contract.skeleton).keypoints)


def classes_of(contract: Contract) -> int:
    """C, the classes that the contract has labels for.

    Raises:
        ContractError: it has none.
    """
    if not contract.labels:
        raise ContractError(
            f"{_where(contract)}: a detector needs `labels`, which say how many classes it has"
        )
    return len(contract.labels)


def require_multiple(contract: Contract, multiple: int) -> None:
    """Refuse an input whose sides a stage of the network would have to round.

    Raises:
        ContractError: with the size.
    """
    width, height = contract.input.size
    if width % multiple or height % multiple:
        raise ContractError(
            f"{_where(contract)}: input.size is {width}x{height}, both sides must be multiples of "
            f"{multiple} px"
        )


def _where(contract: Contract) -> str:
    return f"{contract.name} ({contract.architecture} {contract.variant})"
