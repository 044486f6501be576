"""What can go wrong with models, as one small family; each message says what to do next."""


class EngineError(Exception):
    """Base of all errors of models: a file cannot be loaded or run."""


class ContractError(EngineError):
    """A model is not what its contract says, or the contract itself is invalid."""


class AssetError(EngineError):
    """Weights or a clip are missing, cannot be fetched, or fail their checksum."""
