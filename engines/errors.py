"""Errors of models. Their base class is the one thing that `engines` imports from `pipeline`."""

from pipeline.errors import PosestreamError


class EngineError(PosestreamError):
    """Base of all errors of models: a file cannot be loaded or run."""


class ContractError(EngineError):
    """A model is not what its contract says, or the contract itself is invalid."""


class AssetError(EngineError):
    """Weights or a clip are missing, cannot be fetched, or fail their checksum."""
