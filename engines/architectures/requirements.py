"""What every family requires of a contract before it can build the network: codec, input size, outputs."""

from __future__ import annotations

from typing import TypeVar

from engines.codecs.base import Codec
from engines.contracts.contract import Contract
from engines.contracts.skeletons import load_skeleton
from engines.errors import ContractError

RequiredCodec = TypeVar("RequiredCodec", bound=Codec)


def require_codec(contract: Contract, codec: type[RequiredCodec]) -> RequiredCodec:
    """The contract's codec, which must be of that class.

    Raises:
        ContractError: it is another; with its kind and the required kind.
    """
    if not isinstance(contract.codec, codec):
        kind = codec.kind_name()
        raise ContractError(
            f"{_where(contract)}: its outputs are read by the codec {kind!r}, but codec.kind is "
            f"{contract.codec.kind!r}; set it to {kind!r}"
        )
    return contract.codec


def require_keypoints(contract: Contract) -> int:
    """K, the number of keypoints of the contract's skeleton.

    Raises:
        ContractError: it names none.
    """
    if contract.skeleton is None:
        raise ContractError(
            f"{_where(contract)}: a pose model needs `skeleton`, which says how many keypoints it has"
        )
    return len(load_skeleton(contract.skeleton).keypoints)


def require_labels(contract: Contract) -> int:
    """C, the number of the contract's labels.

    Raises:
        ContractError: it has none.
    """
    if not contract.labels:
        raise ContractError(
            f"{_where(contract)}: a detector needs `labels`, which say how many classes it has"
        )
    return len(contract.labels)


def require_multiple(contract: Contract, multiple: int) -> None:
    """Refuse an input size that the network's strides do not divide evenly.

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
