"""Errors of models.

This is the one file of `engines` that imports from `pipeline`: the base class and the hint for wrong names.
"""

from pipeline.errors import PosestreamError
from pipeline.errors import nearest as nearest  # the same hint in all messages


class EngineError(PosestreamError):
    """A model's file cannot be loaded or run; base of all errors of models."""


class ContractError(EngineError):
    """A model is not what its contract says, or the contract itself is invalid."""


class AssetError(EngineError):
    """Weights or a clip are missing, cannot be fetched, or fail their checksum."""


def one_line(error: object) -> str:
    """An error's message without line breaks, since every message of ours is one line."""
    return " ".join(str(error).split())
