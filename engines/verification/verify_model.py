"""Compare a model, as it is loaded on this machine, with its FP32 reference."""

from __future__ import annotations

from pathlib import Path

from engines.comparison.compare import Comparison
from engines.comparison.reference import compare_with_reference
from engines.contracts.contract import Contract
from engines.loading.engine_choice import choose_engine
from engines.loading.load import open_engine


def verify_model(
    contract: Contract, *, path: Path | None = None, backend: str = "auto", threads: int = 1
) -> Comparison:
    """Load a model with the fastest backend, or the named one, and compare it with the FP32 reference.

    Raises:
        AssetError: the weights are not on this machine.
        EngineError: the model cannot be loaded, or there is no reference for it.
        ContractError: the file is another model than the contract describes.
    """
    choice = choose_engine(contract, path, backend)
    engine = open_engine(choice, threads)
    try:
        name = f"{choice.backend} on {choice.path.name}"
        return compare_with_reference(contract, engine, choice.path, name=name, threads=threads)
    finally:
        engine.close()
