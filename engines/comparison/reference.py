"""The FP32 reference of a model: PyTorch with its checkpoint, else ONNX Runtime without optimisation."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from engines.assets.model_files import is_checkpoint, runnable
from engines.assets.store import cached_path, is_cached
from engines.backends.base import Engine
from engines.backends.onnxruntime import OnnxEngine
from engines.comparison.compare import Comparison, compare_engines
from engines.contracts.contract import Contract
from engines.contracts.onnx_metadata import has_random_weights, is_quantised, quantised_from
from engines.errors import EngineError
from engines.home import cache_home


def compare_with_reference(
    contract: Contract, engine: Engine, path: Path, *, name: str = "engine", threads: int = 1
) -> Comparison:
    """Compare an engine that runs, or was compiled from, `path` with the FP32 reference.

    The reference is PyTorch with the model's checkpoint, if both are on this machine; else ONNX Runtime on
    the CPU, which runs the graph node by node as written.

    Raises:
        EngineError: there is no reference for a file of this kind.
    """
    trained = not has_random_weights(path)
    reference, reference_name = _open_reference(contract, path, threads, trained=trained)
    try:
        return compare_engines(
            contract, reference, engine, reference_name=reference_name, name=name, trained=trained
        )
    finally:
        reference.close()


def _open_reference(contract: Contract, path: Path, threads: int, *, trained: bool) -> tuple[Engine, str]:
    """The reference and its name."""
    if trained and is_checkpoint(contract) and is_cached(contract.asset) and find_spec("torch"):
        from engines.backends.pytorch import TorchEngine

        checkpoint = cached_path(contract.asset)
        return TorchEngine(contract, checkpoint, threads, device="cpu"), "PyTorch"
    if path.suffix != ".onnx":
        raise EngineError(
            f"{contract.name}: only LiteRT runs {path.name}, so there is no reference for it; "
            "verify works with ONNX files and what is made from them"
        )
    if is_quantised(path):
        path = _fp32_source(contract, path)
    return OnnxEngine(path, threads, optimised=False), "ONNX Runtime without optimisation"


def _fp32_source(contract: Contract, quantised: Path) -> Path:
    """The FP32 file that an INT8 file was made from: beside it, or in the cache.

    If the INT8 file does not name its source, this is the file that runs the model.

    Raises:
        EngineError: the source is not on this machine any more.
    """
    notes = quantised_from(quantised)
    if notes is None:
        return runnable(contract)
    name, sha256 = notes["file"], notes["source"]
    candidates = [quantised.parent / name, cache_home() / "onnx" / name, cached_path(contract.asset)]
    for candidate in dict.fromkeys(candidates):
        if candidate.is_file() and hashlib.sha256(candidate.read_bytes()).hexdigest() == sha256:
            return candidate
    raise EngineError(
        f"{quantised.name} was made from {name} (SHA-256 {sha256[:8]}…), which is neither beside it nor in "
        "the cache; put it beside it, or pull or export the model again"
    )
