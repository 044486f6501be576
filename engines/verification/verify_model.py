"""Load what runs a model here, and hold it against the reference."""

from __future__ import annotations

from pathlib import Path

from engines.comparison.compare import Report, verify_engine
from engines.contracts.contract import Contract
from engines.loading.load import find_engine, load_engine


def verify_model(
    contract: Contract, *, path: Path | None = None, backend: str = "auto", threads: int = 1
) -> Report:
    """Compare what runs a model here with the FP32 reference.

    Raises:
        AssetError: the weights are not on this machine.
        EngineError: the model cannot be loaded, or there is no reference for it.
        ContractError: the file is another model than the contract describes.
    """
    path, found, _ = find_engine(contract, path, backend)
    engine = load_engine(contract, threads=threads, path=path, backend=found)
    try:
        return verify_engine(contract, engine, path, name=f"{found} on {path.name}", threads=threads)
    finally:
        engine.close()
